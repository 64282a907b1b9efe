// NCCL's functions, opened when ranks are joined on GPUs. The part of its interface that is used here is declared here,
// so that a build needs no header that CUDA toolkits do not have; these names and values have been the same since 2.10.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "nibble/tensor/library.h"

namespace nibble::nccl {

struct OpaqueComm;
using Comm = OpaqueComm*;  // ncclComm_t
struct UniqueId {          // ncclUniqueId
  char bytes[128];
};
enum class Result : int { Success = 0, InvalidUsage = 5, InProgress = 7 };  // ncclResult_t
enum class Type : int { U8 = 1, I32 = 2, F16 = 6, F32 = 7, BF16 = 9 };      // ncclDataType_t
enum class Op : int { Sum = 0, Max = 2 };                                   // ncclRedOp_t

struct Functions {
  SharedLibrary library{"joining ranks on several GPUs", {"libnccl.so.2", "libnccl.so"}};

  template <class F>
  F* find(const char* name) const {
    return library.function<F*>(name);
  }
  Result (*version)(int*) = find<Result(int*)>("ncclGetVersion");
  Result (*get_unique_id)(UniqueId*) = find<Result(UniqueId*)>("ncclGetUniqueId");
  Result (*init_rank)(Comm*, int, UniqueId, int) = find<Result(Comm*, int, UniqueId, int)>("ncclCommInitRank");
  Result (*destroy)(Comm) = find<Result(Comm)>("ncclCommDestroy");
  Result (*abort)(Comm) = find<Result(Comm)>("ncclCommAbort");
  Result (*async_error)(Comm, Result*) = find<Result(Comm, Result*)>("ncclCommGetAsyncError");
  const char* (*error_string)(Result) = find<const char*(Result)>("ncclGetErrorString");
  const char* (*last_error)(Comm) = find<const char*(Comm)>("ncclGetLastError");
  Result (*group_start)() = find<Result()>("ncclGroupStart");
  Result (*group_end)() = find<Result()>("ncclGroupEnd");
  Result (*all_reduce)(const void*, void*, std::size_t, Type, Op, Comm, cudaStream_t) =
      find<Result(const void*, void*, std::size_t, Type, Op, Comm, cudaStream_t)>("ncclAllReduce");
  Result (*reduce_scatter)(const void*, void*, std::size_t, Type, Op, Comm, cudaStream_t) =
      find<Result(const void*, void*, std::size_t, Type, Op, Comm, cudaStream_t)>("ncclReduceScatter");
  Result (*all_gather)(const void*, void*, std::size_t, Type, Comm, cudaStream_t) =
      find<Result(const void*, void*, std::size_t, Type, Comm, cudaStream_t)>("ncclAllGather");
  Result (*broadcast)(const void*, void*, std::size_t, Type, int, Comm, cudaStream_t) =
      find<Result(const void*, void*, std::size_t, Type, int, Comm, cudaStream_t)>("ncclBroadcast");
  Result (*send)(const void*, std::size_t, Type, int, Comm,
                 cudaStream_t) = find<Result(const void*, std::size_t, Type, int, Comm, cudaStream_t)>("ncclSend");
  Result (*receive)(void*, std::size_t, Type, int, Comm,
                    cudaStream_t) = find<Result(void*, std::size_t, Type, int, Comm, cudaStream_t)>("ncclRecv");
};

}  // namespace nibble::nccl
