// Rows of BF16 under exact quantiles of their own, E2M1 codes under the absmax scale of what is left, for kernels whose
// thread blocks have a row each in their registers, as they read it (clamped_rows.cu) or made it
// (ops/cuda/fused_quantize.cu): its bounds are found there (row_select.cuh) and its elements encoded.
//
// Both bounds are entries of y_c and all others lie between them, so that they give its amax.
#pragma once

#include "nibble/quant/cuda/clamped_rows.h"
#include "nibble/quant/cuda/row_select.cuh"
#include "nibble/quant/cuda/views.h"
#include "nibble/tensor/cuda/pack.cuh"

namespace nibble::quant_cuda {

/// How elements are stored, and whether what lies beyond the bounds becomes an E4M3 element.
enum class ClampOutput : std::uint8_t { None, Packed, E4M3, Fused };

/// What a block has to know of all rows, and where its results go.
struct ClampedRows {
  std::uint32_t rows = 0;
  std::uint32_t cols = 0;
  std::uint32_t low = 0;  ///< positions of the bounds in the sorted row
  std::uint32_t high = 0;
  std::uint32_t share[2] = {};  ///< of the high and of the low bound's rank, for each warp
  Bounds* bounds = nullptr;
  CutOffRows cut_off;  ///< counts may be null, or only places
  std::uint8_t* codes = nullptr;
  std::int64_t row_bytes = 0;
  ScaleView rule;
  float* scales = nullptr;
};

struct ClampRoom {
  SelectRoom select;
  std::uint32_t marks[kMostCols / 32];   ///< a bit a column: it has an entry
  std::uint32_t before[kMostCols / 32];  ///< entries in the words of marks before that one
  std::uint32_t of_warp[kMostWarps];
};

__device__ __forceinline__ float as_float(std::uint32_t bits) { return bits_float(bits << 16); }

/// The magnitudes' E4M3 codes of four E2M1 magnitudes, whose nibbles have no sign.
__device__ __forceinline__ std::uint32_t e4m3_magnitudes(std::uint32_t codes) {
  return __byte_perm(0x3C38'3000u, 0x4C48'4440u, codes);
}

/// e2m1_nearest_eight as E4M3 bytes, all values being finite: the signs come from BF16's words.
template <Tie tie>
__device__ __forceinline__ uint2 e2m1_as_e4m3(const std::uint32_t* words, float m) {
  float y[8];
  cuda::floats_of(words, y);
  std::uint32_t count[8];
#pragma unroll
  for (int i = 0; i < 8; ++i) count[i] = e2m1_count<tie>(y[i] * m);
  std::uint32_t codes = side_by_side(count, tie == Tie::Even ? kCodes : kHalfCodes);
  if constexpr (tie != Tie::Even) codes = codes >> 1 & 0x7777'7777u;
  std::uint32_t bytes[2];
#pragma unroll
  for (int w = 0; w < 2; ++w) {
    const std::uint32_t magnitudes = e4m3_magnitudes(codes >> (16 * w));
    std::uint32_t signs = __byte_perm(words[2 * w], words[2 * w + 1], 0x7531u) & 0x8080'8080u;
    if constexpr (tie == Tie::Up) signs &= magnitudes + 0x6060'6060u;  // none on zero: others begin at 0x30
    bytes[w] = magnitudes | signs;
  }
  return make_uint2(bytes[0], bytes[1]);
}

/// Within finite bounds, of finite numbers; -0 is below +0 here as it is among keys.
__device__ __forceinline__ void clamp_pairs(std::uint32_t* words, std::uint32_t low, std::uint32_t high) {
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    asm("max.bf16x2 %0, %1, %2;" : "=r"(words[i]) : "r"(words[i]), "r"(low));
    asm("min.bf16x2 %0, %1, %2;" : "=r"(words[i]) : "r"(words[i]), "r"(high));
  }
}

__device__ __forceinline__ Bounds bounds_of(const SelectRoom& room) {
  Bounds bounds;
  bounds.low = selected_key(room.found[kLow], true);
  bounds.high = selected_key(room.found[kHigh], true);
  return bounds;
}

/// Calls f(column, y - y_c) for the thread's share of the row's entries: of those listed, or of all columns.
template <bool kListed, class Elements, class F>
__device__ __forceinline__ void for_each_entry(const Elements& elements, std::uint32_t cols, Bounds bounds,
                                               const SelectRoom& room, F f) {
  const std::uint32_t n = kListed ? room.listed : cols;
#pragma unroll 1
  for (std::uint32_t i = threadIdx.x; i < n; i += blockDim.x) {
    const std::uint32_t c = kListed ? room.list[i] & 0xFFFFu : i;
    const float y = as_float(kListed ? bf16_of_key(room.list[i] >> 16) : elements.bits(c));
    const std::int32_t key = quant_cpu::float_key(y);
    const std::int32_t bounded = min(max(key, bounds.low), bounds.high);
    const float difference = y - quant_cpu::key_float(bounded);
    if (key != bounded && difference != 0.0f) f(c, difference);
  }
}

/// Counts the row's entries, and writes them in the order of their columns.
template <bool kListed, class Elements>
__device__ __forceinline__ void write_cut_off(const Elements& elements, const ClampedRows& a, Bounds bounds,
                                              ClampRoom& room) {
  const std::uint32_t words = (a.cols + 31) / 32;
#pragma unroll 1
  for (std::uint32_t w = threadIdx.x; w < words; w += blockDim.x) room.marks[w] = 0;
  __syncthreads();
  for_each_entry<kListed>(elements, a.cols, bounds, room.select,
                          [&](std::uint32_t c, float) { atomicOr(room.marks + c / 32, 1u << (c % 32)); });
  __syncthreads();
  const std::uint32_t each = (words + blockDim.x - 1) / blockDim.x;
  const std::uint32_t first = min(threadIdx.x * each, words);
  const std::uint32_t last = min(first + each, words);
  std::uint32_t count = 0;
#pragma unroll 1
  for (std::uint32_t w = first; w < last; ++w) count += static_cast<std::uint32_t>(__popc(room.marks[w]));
  std::uint32_t at = inclusive_scan(count);
  if (threadIdx.x % 32 == 31) room.of_warp[threadIdx.x / 32] = at;
  __syncthreads();
  at -= count;
#pragma unroll 1
  for (std::uint32_t w = 0; w < threadIdx.x / 32; ++w) at += room.of_warp[w];
  if (threadIdx.x + 1 == blockDim.x) a.cut_off.counts[blockIdx.x] = static_cast<std::int32_t>(at + count);
  if (a.cut_off.places == nullptr) return;
#pragma unroll 1
  for (std::uint32_t w = first; w < last; ++w) {
    room.before[w] = at;
    at += static_cast<std::uint32_t>(__popc(room.marks[w]));
  }
  __syncthreads();
  CutOff* to = a.cut_off.places + a.cut_off.each * blockIdx.x;
  for_each_entry<kListed>(elements, a.cols, bounds, room.select, [&](std::uint32_t c, float difference) {
    const std::uint32_t in_word = room.marks[c / 32] & ((1u << (c % 32)) - 1u);
    to[room.before[c / 32] + static_cast<std::uint32_t>(__popc(in_word))] = {c, difference};
  });
}

/// What follows from the bounds, which all threads see: they are noted, what they cut off is written, and the row gets
/// its scale. The result is what elements are multiplied by.
template <ClampOutput output, bool kListed, class Elements>
__device__ __forceinline__ float settle(const Elements& elements, const ClampedRows& a, ClampRoom& room) {
  const Bounds bounds = bounds_of(room.select);
  if (threadIdx.x == 0) a.bounds[blockIdx.x] = bounds;
  if (a.cut_off.counts != nullptr) write_cut_off<kListed>(elements, a, bounds, room);
  if constexpr (output == ClampOutput::None) return 0.0f;
  const std::int32_t amax =
      max(magnitude_bits(quant_cpu::key_float(bounds.low)), magnitude_bits(quant_cpu::key_float(bounds.high)));
  const BlockScale scale = block_scale(a.rule, amax, 0.0f, 0.0f, 1.0f);
  if (threadIdx.x == 0) a.scales[blockIdx.x] = scale.stored;
  return scale.multiplier;
}

/// What elements beyond the bounds are multiplied by: zeros are stored under the scale 1.
__device__ __forceinline__ float beyond_factor(float m) { return m == 0.0f ? 1.0f : m; }

/// A row of finite numbers, all of whose elements beyond the bounds are listed.
template <Tie tie, ClampOutput output, int kPieces>
__device__ __forceinline__ void encode_quickly(RowInRegisters<kPieces>& y, const ClampedRows& a, float m,
                                               ClampRoom& room) {
  std::uint8_t* codes = a.codes + static_cast<std::int64_t>(blockIdx.x) * a.row_bytes;
  const std::uint32_t low = bf16_of_key(room.select.found[kLow]) * 0x0001'0001u;
  const std::uint32_t high = bf16_of_key(room.select.found[kHigh]) * 0x0001'0001u;
#pragma unroll
  for (int k = 0; k < kPieces; ++k) {
    if (!y.has(k)) continue;
    const std::uint32_t c = y.column(k);
    std::uint32_t* words = y.words + 4 * k;
    if constexpr (output != ClampOutput::Fused) clamp_pairs(words, low, high);
    if constexpr (output == ClampOutput::Packed) {
      float z[8];
      cuda::floats_of(words, z);
#pragma unroll
      for (float& v : z) v *= m;
      *reinterpret_cast<std::uint32_t*>(codes + c / 2) = e2m1_nearest_eight<tie>(z, true);
    } else {
      *reinterpret_cast<uint2*>(codes + c) = e2m1_as_e4m3<tie>(words, m);
    }
  }
  if constexpr (output != ClampOutput::Fused) return;
  __syncthreads();  // elements beyond the bounds got the code of the largest, by the thread that has the piece
  const float factor = beyond_factor(m);
#pragma unroll 1
  for (std::uint32_t i = threadIdx.x; i < room.select.listed; i += blockDim.x) {
    const std::uint32_t entry = room.select.list[i];
    const std::uint32_t key = entry >> 16;
    if (key >= room.select.found[kLow] && key <= room.select.found[kHigh]) continue;
    const float beyond = as_float(bf16_of_key(key)) * factor;
    codes[entry & 0xFFFFu] = static_cast<std::uint8_t>(fp8_pair(ElementFormat::E4M3, beyond, 0.0f));
  }
}

template <Tie tie, ClampOutput output, class Elements>
__device__ __forceinline__ void encode_slowly(const Elements& elements, const ClampedRows& a, Bounds bounds, float m) {
  std::uint8_t* codes = a.codes + static_cast<std::int64_t>(blockIdx.x) * a.row_bytes;
#pragma unroll 1
  for (std::uint32_t c = 8 * threadIdx.x; c < a.cols; c += 8 * blockDim.x) {
    float y[8];
#pragma unroll
    for (std::uint32_t i = 0; i < 8; ++i) y[i] = as_float(elements.bits(c + i));
    float z[8];
    std::uint32_t outside = 0;
#pragma unroll
    for (int i = 0; i < 8; ++i) {
      const std::int32_t key = quant_cpu::float_key(y[i]);
      const std::int32_t bounded = min(max(key, bounds.low), bounds.high);
      z[i] = quant_cpu::key_float(bounded) * m;
      outside |= (key != bounded ? 1u : 0u) << i;
    }
    const std::uint32_t packed = e2m1_nearest_eight<tie>(z, false);
    if constexpr (output == ClampOutput::Packed) {
      *reinterpret_cast<std::uint32_t*>(codes + c / 2) = packed;
      continue;
    }
    std::uint32_t bytes[2] = {e2m1_to_e4m3(packed), e2m1_to_e4m3(packed >> 16)};
    if (output == ClampOutput::Fused && outside != 0) {
      std::uint32_t beyond[2];
#pragma unroll
      for (int i = 0; i < 8; ++i) z[i] = y[i] * beyond_factor(m);
      encode_fp8(ElementFormat::E4M3, z, y, false, beyond);
#pragma unroll
      for (std::uint32_t i = 0; i < 8; ++i) {
        const std::uint32_t byte = 0xFFu << (8 * (i % 4));
        if ((outside >> i & 1u) != 0) bytes[i / 4] = (bytes[i / 4] & ~byte) | (beyond[i / 4] & byte);
      }
    }
    *reinterpret_cast<uint2*>(codes + c) = make_uint2(bytes[0], bytes[1]);
  }
}

/// All of it for any row; apart, so that nothing of it takes registers from the other rows.
template <Tie tie, ClampOutput output, class Elements>
__device__ __noinline__ void clamp_slowly(const Elements& elements, const ClampedRows& a, ClampRoom& room) {
  select_slowly(elements, a.cols, a.low, a.high, room.select);
  __syncthreads();
  const float m = settle<output, false>(elements, a, room);
  if constexpr (output != ClampOutput::None) encode_slowly<tie, output>(elements, a, bounds_of(room.select), m);
}

/// Row blockIdx.x by the threads of a block, which have it as `y`; `elements.bits(c)`: the bits of column c once more.
template <Tie tie, ClampOutput output, int kPieces, class Elements>
__device__ __forceinline__ void clamp_row(RowInRegisters<kPieces>& y, const Elements& elements, const ClampedRows& a,
                                          ClampRoom& room) {
  const std::uint32_t rank[2] = {a.cols - a.high, a.low + 1};
  if (!select_quickly(y, elements, rank, a.share, room.select)) return clamp_slowly<tie, output>(elements, a, room);
  __syncthreads();
  const float m = settle<output, true>(elements, a, room);
  if constexpr (output != ClampOutput::None) encode_quickly<tie, output>(y, a, m, room);
}

/// Rows and bounds alone.
inline ClampedRows clamped_rows_of(const Job& job, const ClampedLayout& layout) {
  const quant_cpu::QuantileIndex index = quant_cpu::quantile_index(job.spec.clamp.alpha, job.cols());
  ClampedRows a;
  a.rows = static_cast<std::uint32_t>(job.rows());
  a.cols = static_cast<std::uint32_t>(job.cols());
  a.low = static_cast<std::uint32_t>(index.low);
  a.high = static_cast<std::uint32_t>(index.high);
  a.share[kHigh] = layout.share[0];
  a.share[kLow] = layout.share[1];
  return a;
}

/// All of the job, by `launch(tie, output, rows)`, both as types: a kernel whose blocks call clamp_row.
template <class Launch>
void encode_clamped_rows_by(Job& job, const CsrMatrix& residual, const ClampedLayout& layout, const Launch& launch) {
  ClampedRows a = clamped_rows_of(job, layout);
  a.bounds = job.scratch<Bounds>(job.rows());
  a.codes = static_cast<std::uint8_t*>(job.q.codes.raw());
  a.row_bytes = job.q.code_row_bytes();
  a.rule = ScaleView(job.spec);
  a.scales = job.q.scales.data<float>();
  if (residual.defined()) {
    a.cut_off.each = quant_cpu::quantile_index(job.spec.clamp.alpha, job.cols()).outside(job.cols());
    a.cut_off.places = job.scratch<CutOff>(std::max<std::int64_t>(1, a.cut_off.each * job.rows()));
    a.cut_off.counts = job.scratch<std::int32_t>(job.rows());
  }
  const auto with_tie = [&]<Tie tie>(std::integral_constant<Tie, tie> rounding) {
    if (job.spec.clamp.residual == ResidualMode::Fused) {
      launch(rounding, std::integral_constant<ClampOutput, ClampOutput::Fused>(), a);
    } else if (job.form == Form::E4M3) {
      launch(rounding, std::integral_constant<ClampOutput, ClampOutput::E4M3>(), a);
    } else {
      launch(rounding, std::integral_constant<ClampOutput, ClampOutput::Packed>(), a);
    }
  };
  if (job.spec.rounding == Rounding::NearestUp) {
    with_tie(std::integral_constant<Tie, Tie::Up>());
  } else {
    with_tie(std::integral_constant<Tie, Tie::Even>());
  }
  if (residual.defined()) gather_residual(job, a.cut_off, residual);
  job.source.bounds = a.bounds;
  job.source.bounds_of_rows = true;
}

}  // namespace nibble::quant_cuda
