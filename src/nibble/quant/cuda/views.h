// Kernel arguments from a job.
#pragma once

#include "nibble/quant/cuda/codes.cuh"
#include "nibble/quant/cuda/fast_divide.h"
#include "nibble/quant/cuda/job.h"

namespace nibble::quant_cuda {

inline EncodeView encode_view(const Job& job) {
  EncodeView view;
  view.element = job.spec.element;
  view.rounding = job.spec.rounding;
  view.log_steps = job.spec.log_steps;
  view.random = KeyedStream(job.context.random);
  view.first = job.context.element_offset;
  view.stride = job.element_stride();
  view.reference = job.reference;
  view.wide_reference = reinterpret_cast<std::uintptr_t>(job.reference) % 16 == 0 && job.cols() % 4 == 0;
  view.rows = static_cast<std::uint32_t>(job.rows());
  view.cols = static_cast<std::uint32_t>(job.cols());
  return view;
}

/// How blocks of scales lie over a matrix.
struct BlocksOf {
  FastDivide rows;  ///< of a block
  FastDivide cols;
  std::uint32_t blocks = 0;  ///< in a row of blocks
  std::uint32_t bands = 0;   ///< rows of blocks

  BlocksOf() = default;
  explicit BlocksOf(const QTensor& q)
      : rows(std::min(q.block_rows(), q.rows)),
        cols(std::min(q.block_cols(), q.cols)),
        blocks(static_cast<std::uint32_t>(q.scale_cols())),
        bands(static_cast<std::uint32_t>(q.scale_rows())) {}
};

}  // namespace nibble::quant_cuda
