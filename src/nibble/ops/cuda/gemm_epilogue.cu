#include <bit>

#include "nibble/numerics/fp8.h"
#include "nibble/ops/cuda/gemm_epilogue.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {
namespace {

/// The scales of one operand that do not vary along the contraction.
struct OperandScales {
  std::int64_t count = 1;  ///< the extent along C, or 1 where one number serves
  const void* blocks = nullptr;
  ScaleFormat format = ScaleFormat::None;
  std::int64_t block = 1;
  const float* second = nullptr;
  std::int64_t second_block = 1;  ///< extent along C of one scale of the second level
  std::int64_t second_stride = 1;
  const float* device = nullptr;
  float factor = 1.0f;

  bool on_host() const { return blocks == nullptr && second == nullptr && device == nullptr; }
  /// The stored scales as they are, one F32 number for each place.
  const float* as_stored() const {
    const bool plain = format == ScaleFormat::F32 && block == 1 && second == nullptr && device == nullptr;
    return plain && factor == 1.0f ? static_cast<const float*>(blocks) : nullptr;
  }

  __device__ float at(std::int64_t i) const {
    float scale = 1.0f;
    if (blocks != nullptr) {
      const std::int64_t b = i / block;
      scale = format == ScaleFormat::F32    ? static_cast<const float*>(blocks)[b]
              : format == ScaleFormat::E8M0 ? e8m0_decode(static_cast<const std::uint8_t*>(blocks)[b])
                                            : e4m3_decode(static_cast<const std::uint8_t*>(blocks)[b]);
    }
    if (second != nullptr) scale = scale * second[i / second_block * second_stride];
    return scale * (device == nullptr ? factor : factor * *device);
  }
};

OperandScales operand_scales(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  OperandScales s;
  if (!uses_scales(x)) return s;
  const std::int64_t extent = outer_extent(x);
  s.factor = q.tensor_scale;
  if (q.device_scale.defined()) s.device = q.device_scale.data<float>();
  if (q.scale_format != ScaleFormat::None && !block_scales_are_inner(x)) {
    s.blocks = q.scales.raw();
    s.format = q.scale_format;
    s.block = x.transposed ? q.block_cols() : q.block_rows();
    if (s.block < extent) s.count = extent;
  }
  if (q.outer_scales.defined() && !second_level_is_inner(x)) {
    s.second = q.outer_scales.data<float>();
    s.second_block = x.transposed ? q.outer : 1;
    s.second_stride = x.transposed ? 1 : q.outer_scales.cols();
    if (s.second_block < extent) s.count = extent;
  }
  return s;
}

__global__ void fill_vectors(OperandScales a, std::int64_t m, float* rows, OperandScales b, std::int64_t n,
                             float* cols) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (rows != nullptr && i < m) rows[i] = a.at(i);
  if (cols != nullptr && i < n) cols[i] = b.at(i);
}

__global__ void fill_numbers(OperandScales a, OperandScales b, float beta, float* out) {
  out[0] = a.at(0);
  out[1] = b.at(0);
  out[2] = out[0] * out[1];
  out[3] = beta;
}

template <class T>
__device__ void load_four(const T* from, float* x) {
  if constexpr (sizeof(T) == 4) {
    const float4 four = *reinterpret_cast<const float4*>(from);
    x[0] = four.x;
    x[1] = four.y;
    x[2] = four.z;
    x[3] = four.w;
  } else {
    const uint2 four = *reinterpret_cast<const uint2*>(from);
    x[0] = __uint_as_float(four.x << 16);
    x[1] = __uint_as_float(four.x & 0xFFFF'0000u);
    x[2] = __uint_as_float(four.y << 16);
    x[3] = __uint_as_float(four.y & 0xFFFF'0000u);
  }
}

__device__ void store_four(float* to, const float* x) { *reinterpret_cast<float4*>(to) = {x[0], x[1], x[2], x[3]}; }
__device__ void store_four(bf16* to, const float* x) {
  const auto pair = [](float low, float high) {
    return std::uint32_t{bf16_encode(low).bits} | std::uint32_t{bf16_encode(high).bits} << 16;
  };
  *reinterpret_cast<uint2*>(to) = {pair(x[0], x[1]), pair(x[2], x[3])};
}

/// Bound by memory: 4 bytes read and 2 or 4 written an element. A thread takes four columns of four rows; `whole` says
/// that rows of C and of the sums are whole, aligned fours.
template <class T>
__global__ __launch_bounds__(256) void scale_and_store(const float* sums, std::int64_t stride, OuterScales s, T* c,
                                                       std::int64_t m, std::int64_t n, bool add, bool whole) {
  constexpr int kRows = 4;
  const std::int64_t col = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) * 4;
  if (col >= n) return;
  const int width = static_cast<int>(std::min<std::int64_t>(4, n - col));
  float factor[4];
  for (int j = 0; j < 4; ++j) factor[j] = s.cols != nullptr && j < width ? s.cols[col + j] : 1.0f;
  const float all = s.device != nullptr ? s.factor * s.device[2] : s.factor;
  const std::int64_t step = std::int64_t{gridDim.y} * blockDim.y * kRows;
  for (std::int64_t r = (std::int64_t{blockIdx.y} * blockDim.y + threadIdx.y) * kRows; r < m; r += step) {
    const int count = static_cast<int>(std::min<std::int64_t>(kRows, m - r));
    float x[kRows][4];
    float before[kRows][4];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (i >= count) break;
      const float* from = sums + (r + i) * stride + col;
      const T* old = c + (r + i) * n + col;
      if (whole) {
        load_four(from, x[i]);
        if (add) load_four(old, before[i]);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          x[i][j] = j < width ? from[j] : 0.0f;
          if (add) before[i][j] = j < width ? to_float(old[j]) : 0.0f;
        }
      }
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (i >= count) break;
      const float row = s.rows != nullptr ? s.rows[r + i] : 1.0f;
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        x[i][j] = x[i][j] * all * row * factor[j];
        if (add) x[i][j] = before[i][j] + x[i][j];
      }
      T* to = c + (r + i) * n + col;
      if (whole) {
        store_four(to, x[i]);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          if (j < width) to[j] = from_float<T>(x[i][j]);
        }
      }
    }
  }
}

}  // namespace

OuterScales outer_scales(const GemmOperand& a, const GemmOperand& b, float beta, Arena& scratch) {
  const OperandScales of_a = operand_scales(a);
  const OperandScales of_b = operand_scales(b);
  OuterScales s;
  if (of_a.on_host() && of_b.on_host()) {
    s.factor = of_a.factor * of_b.factor;
    return s;
  }
  if (of_a.count == 1 && of_b.count == 1) {
    float* numbers = scratch.allocate(DType::F32, {4}).data<float>();
    fill_numbers<<<1, 1, 0, stream()>>>(of_a, of_b, beta, numbers);
    launched("fill_numbers");
    s.device = numbers;
    return s;
  }
  const std::int64_t m = outer_extent(a);
  const std::int64_t n = outer_extent(b);
  float* rows = of_a.as_stored() != nullptr ? nullptr : scratch.allocate(DType::F32, {m}).data<float>();
  float* cols = of_b.as_stored() != nullptr ? nullptr : scratch.allocate(DType::F32, {n}).data<float>();
  if (rows != nullptr || cols != nullptr) {
    const auto blocks = static_cast<unsigned>((std::max(m, n) + 255) / 256);
    fill_vectors<<<blocks, 256, 0, stream()>>>(of_a, m, rows, of_b, n, cols);
    launched("fill_vectors");
  }
  s.rows = rows != nullptr ? rows : of_a.as_stored();
  s.cols = cols != nullptr ? cols : of_b.as_stored();
  return s;
}

void scale_sums(const float* sums, std::int64_t stride, const OuterScales& scales, std::int64_t first_row,
                const Tensor& c, Accumulate accumulate) {
  const std::int64_t m = c.dim(0);
  const std::int64_t n = c.dim(1);
  if (m == 0 || n == 0) return;
  OuterScales s = scales;
  if (s.rows != nullptr) s.rows += first_row;
  const auto misaligned = [](const void* p) { return reinterpret_cast<std::uintptr_t>(p) % 16 != 0; };
  const bool whole = n % 4 == 0 && stride % 4 == 0 && !misaligned(sums) && !misaligned(c.raw());
  const auto fours = static_cast<unsigned>((n + 3) / 4);
  const unsigned wide = std::clamp(std::bit_ceil(fours), 8u, 256u);
  const dim3 block(wide, 256 / wide);
  const std::int64_t blocks = (m + 4 * block.y - 1) / (4 * block.y);
  const dim3 grid((fours + wide - 1) / wide, static_cast<unsigned>(std::min<std::int64_t>(blocks, 65535)));
  dispatch_float(c.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    scale_and_store<<<grid, block, 0, stream()>>>(sums, stride, s, c.data<T>(), m, n, accumulate == Accumulate::Add,
                                                  whole);
  });
  launched("scale_and_store");
}

}  // namespace nibble::cuda
