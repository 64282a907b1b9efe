// What joins the ranks of a job. Each function is defined twice: in mpi/ and no_mpi/, in cuda/ and no_cuda/.
#pragma once

#include <memory>

#include "nibble/dist/communicator.h"
#include "nibble/dist/launch.h"

namespace nibble::mpi {

/// Opens Open MPI, starts it and joins all its ranks, with tensors on the CPU; once a process. UserError where this
/// build was made without MPI, or where this machine has none.
std::unique_ptr<Communicator> join(double timeout);

/// "Open MPI v4.1.4"; opens the library, but joins nobody. UserError as `join`.
std::string library_version();

/// How far the ranks have come in operations that another library does: whom to name when one does not finish.
class RollCall {
 public:
  virtual ~RollCall() = default;
  /// This rank has begun operation `number` (from 1, rising), `kind` of `bytes`. From any thread.
  virtual void began(std::int64_t number, int kind, std::int64_t bytes) = 0;
  /// Asks all ranks how far they are; they answer even while they compute.
  virtual void ask() = 0;
  /// What is known of operation `number`: "rank 2 has not joined it".
  virtual std::string verdict(std::int64_t number) = 0;
};

/// Of a communicator that `join` made.
RollCall& roll_call(Communicator& joined);

}  // namespace nibble::mpi

namespace nibble::nccl {

/// UserError where this build was made without CUDA.
void check_built();
/// "NCCL 2.18.3"; opens the library. UserError as `join`.
std::string library_version();

/// All ranks of the launch, each on its GPU. `start_up` carries NCCL's unique id and names ranks that do not answer;
/// null = NCCL meets at launch.address by itself. UserError where this build or machine has no NCCL or too few GPUs.
std::unique_ptr<Communicator> join(const Launch& launch, std::unique_ptr<Communicator> start_up, double timeout);

}  // namespace nibble::nccl

namespace nibble {

/// For ranks that cannot ask each other whether all of them have met the same mistake: returns at once on rank 0, later
/// on others, if whoever started them has not ended this process meanwhile because rank 0 had.
void wait_for_turn(int rank);

}  // namespace nibble
