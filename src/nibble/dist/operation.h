// Names of operations, for the sentences about those that do not finish.
#pragma once

#include <cstdint>
#include <string>

namespace nibble {

enum class Operation : std::uint8_t { AllReduce, ReduceScatter, AllGather, AllToAll, Broadcast, Barrier, End };

inline const char* operation_name(Operation operation) {
  switch (operation) {
    case Operation::AllReduce: return "all_reduce";
    case Operation::ReduceScatter: return "reduce_scatter";
    case Operation::AllGather: return "all_gather";
    case Operation::AllToAll: return "all_to_all";
    case Operation::Broadcast: return "broadcast";
    case Operation::Barrier: return "barrier";
    case Operation::End: return "the end of the job";
  }
  return "?";
}

}  // namespace nibble
