// E2M1 codes and what lies beyond the clamp as one E4M3 element each: a thread takes eight columns, reads y once and
// writes eight bytes. Bound by memory, with stochastic rounding by the integer units.
//
// Bounds and scale of the same row (or both of the tensor) need no pass for amax: both bounds are entries of y_c, and
// all others lie between them.
#include "nibble/quant/cuda/views.h"

namespace nibble::quant_cuda {

namespace {

constexpr int kThreads = 256;

struct FusedScales {
  ScaleView rule;
  float* stored = nullptr;
  const float* multipliers = nullptr;  ///< null: the scales follow from the bounds
  bool of_rows = false;
};

/// What elements of row r are multiplied by, 0 where they all are zero.
__device__ __forceinline__ float multiplier_of(const FusedScales& scales, Bounds bounds, std::uint32_t r,
                                               std::uint32_t c) {
  const std::uint32_t index = scales.of_rows ? r : 0;
  if (scales.multipliers != nullptr) return scales.multipliers[index];
  const std::int32_t amax =
      max(magnitude_bits(quant_cpu::key_float(bounds.low)), magnitude_bits(quant_cpu::key_float(bounds.high)));
  const BlockScale scale = block_scale(scales.rule, amax, 0.0f, 0.0f, 1.0f);
  if (c == 0 && (scales.of_rows || r == 0)) scales.stored[index] = scale.stored;
  return scale.multiplier;
}

template <class T>
__global__ void __launch_bounds__(kThreads)
    encode_fused_kernel(const __grid_constant__ SourceView source, const __grid_constant__ CodesView codes,
                        const __grid_constant__ EncodeView encode, const __grid_constant__ FusedScales scales,
                        FastDivide chunks, std::uint32_t items) {
  const std::uint32_t item = blockIdx.x * kThreads + threadIdx.x;
  if (item >= items) return;
  const std::uint32_t r = chunks.quotient(item);
  const std::uint32_t c = 8 * (item - r * chunks.divisor());
  float y[8];
  read_unclamped<T>(source, r, c, y);
  const Bounds bounds = source.bounds[source.bounds_of_rows ? r : 0];
  const float m = multiplier_of(scales, bounds, r, c);
  float z[8];
  std::uint32_t outside = 0;
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) {
    const std::int32_t key = quant_cpu::float_key(y[i]);
    const std::int32_t bounded = min(max(key, bounds.low), bounds.high);
    z[i] = quant_cpu::key_float(bounded) * m;
    outside |= (key != bounded ? 1u : 0u) << i;
  }
  const float each[8] = {m, m, m, m, m, m, m, m};
  const std::uint32_t packed = encode_four_bit(encode, r, c, z, each, false);
  std::uint32_t words[2] = {e2m1_to_e4m3(packed), e2m1_to_e4m3(packed >> 16)};
  if (outside != 0) {
    const float of_stored = m == 0.0f ? 1.0f : m;  // zeros are stored under the scale 1
    std::uint32_t beyond[2];
#pragma unroll
    for (int i = 0; i < 8; ++i) z[i] = y[i] * of_stored;
    encode_fp8(ElementFormat::E4M3, z, y, false, beyond);
#pragma unroll
    for (int w = 0; w < 2; ++w) {
      // Bit i of the four to byte i: copies at bits i, 7 + i, 14 + i and 21 + i, of which bit 8 i is kept.
      const std::uint32_t flags = ((outside >> (4 * w) & 15u) * 0x0020'4081u) & 0x0101'0101u;
      const std::uint32_t mask = flags * 0xFFu;
      words[w] = (beyond[w] & mask) | (words[w] & ~mask);
    }
  }
  store_codes(codes, r, c, words);
}

}  // namespace

void encode_fused(const Job& job) {
  FusedScales scales;
  scales.rule = ScaleView(job.spec);
  scales.stored = job.q.scales.data<float>();
  scales.of_rows = job.spec.granularity == Granularity::per_row();
  if (scales.of_rows != job.source.bounds_of_rows) scales.multipliers = scale_blocks(job);
  const std::int64_t chunks = chunks_of_row(job.cols());
  const std::int64_t items = job.rows() * chunks;
  dispatch_float(job.dtype, [&]<class T>(T*) {
    encode_fused_kernel<T><<<blocks_for(items, kThreads), kThreads, 0, cuda::stream()>>>(
        job.source, CodesView(job.q), encode_view(job), scales, FastDivide(chunks), static_cast<std::uint32_t>(items));
    cuda::launched("encode_fused_kernel");
  });
}

}  // namespace nibble::quant_cuda
