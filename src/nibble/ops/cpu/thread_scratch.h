// Scratch memory by thread, cut from an arena before the threads start.
#pragma once

#include <omp.h>

#include "nibble/tensor/tensor.h"

namespace nibble::cpu {

class ThreadScratch {
 public:
  ThreadScratch(std::int64_t bytes, Arena& arena) : nested_(omp_in_parallel() != 0), stride_((bytes + 63) / 64 * 64) {
    base_ = arena.allocate(DType::U8, {nested_ ? 1 : omp_get_max_threads(), stride_}).data<std::uint8_t>();
  }
  /// The calling thread's piece, from byte `offset`.
  template <class T>
  T* at(std::int64_t offset) const {
    return reinterpret_cast<T*>(base_ + (nested_ ? 0 : omp_get_thread_num()) * stride_ + offset);
  }

 private:
  bool nested_;
  std::int64_t stride_;
  std::uint8_t* base_;
};

}  // namespace nibble::cpu
