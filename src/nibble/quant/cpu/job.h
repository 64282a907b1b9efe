// One call of `quantize`, as its passes share it.
#pragma once

#include <algorithm>
#include <memory>

#include "nibble/quant/cpu/clamp.h"
#include "nibble/quant/cpu/nvfp4_scales.h"
#include "nibble/quant/cpu/residual.h"
#include "nibble/tensor/parallel.h"

namespace nibble::quant_cpu {

template <class T>
using Scratch = std::unique_ptr<T[]>;
template <class T>
Scratch<T> scratch(std::int64_t n) {
  return std::make_unique_for_overwrite<T[]>(static_cast<std::size_t>(n));
}

/// Blocks up to this tall are scaled while their rows are still in cache.
inline constexpr std::int64_t kTallestBand = 64;

struct Job {
  const Source& source;
  const Source* reference;  ///< what Rounding::Reference rounds towards
  const QuantSpec& spec;
  const QuantizeContext& context;
  QTensor& q;
  ResidualRows& residual;
  KeyBounds<std::int32_t>* row_bounds = nullptr;  ///< one a row where a row is clamped more than once
  KeyBounds<std::int32_t> tensor_bounds;
  OuterScale outer;  ///< of the tensor, for Nvfp4

  std::int64_t rows() const { return q.rows; }
  std::int64_t cols() const { return q.cols; }
  /// Rows a chunk takes: whole bands of blocks where a band is not too tall to share out, and whole groups of the
  /// source where bands allow it.
  std::int64_t grain() const {
    const auto round_up = [](std::int64_t n, std::int64_t unit) { return (n + unit - 1) / unit * unit; };
    const std::int64_t band = q.block_rows() <= kTallestBand ? q.block_rows() : 1;
    const std::int64_t group = source.row_group();
    const std::int64_t unit = group % band == 0 ? group : band;
    return round_up(rows_per_chunk(source.row_bytes()), unit);
  }
  /// QuantizeContext::amax; null where it is not given.
  const std::int32_t* known_amax() const {
    return context.amax.defined() ? context.amax.data<std::int32_t>() : nullptr;
  }
  /// Of each block, where the blocks are as tall as a matrix of which y is a part.
  const std::int32_t* known_block_amax() const { return spec.scale == ScaleRule::Nvfp4 ? nullptr : known_amax(); }
  std::uint64_t first_element(std::int64_t r) const {
    const std::uint64_t stride =
        context.element_stride != 0 ? context.element_stride : static_cast<std::uint64_t>(cols());
    return context.element_offset + static_cast<std::uint64_t>(r) * stride;
  }
};

}  // namespace nibble::quant_cpu
