#include "nibble/quant/cpu/fused.h"

#include <bit>

#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/multiplier.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

/// The E4M3 code of an E2M1 number. From 1 on the magnitudes lie four E4M3 codes apart, as E2M1 has one bit of mantissa
/// and E4M3 three; 0.5 lies a binade, eight codes, below 1.
NIBBLE_INLINE std::uint8_t widened(std::uint32_t code) {
  const std::uint32_t m = code & 7u;
  return static_cast<std::uint8_t>((m < 2 ? 0x30u * m : 0x30u + 4u * m) | (code & 8u) << 4);
}

NIBBLE_SIMD void widen_e2m1(const std::uint8_t* __restrict packed, std::int64_t n, std::uint8_t* __restrict codes) {
  for (std::int64_t j = 0; j < n / 2; ++j) {
    codes[2 * j] = widened(packed[j] & 15u);
    codes[2 * j + 1] = widened(packed[j] >> 4u);
  }
  if (n % 2 != 0) codes[n - 1] = widened(packed[n / 2] & 15u);
}

}  // namespace

void fuse_residual(const Job& job, const QTensor& fused) {
  const std::int64_t n = job.cols();
  const std::int64_t words = (n + 63) / 64;
  parallel_for(job.rows(), job.grain(), [&](std::int64_t begin, std::int64_t end) {
    RowReader read(job.source);
    const Scratch<float> buffer = scratch<float>(n);
    const Scratch<std::uint64_t> outside = scratch<std::uint64_t>(words);
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = read(r, buffer.get());
      std::uint8_t* codes = fused.codes.data<std::uint8_t>() + r * n;
      widen_e2m1(job.q.codes.data<std::uint8_t>() + r * job.q.code_row_bytes(), n, codes);
      mark_outside(y, job.row_bounds != nullptr ? job.row_bounds[r] : job.tensor_bounds, n, outside.get());
      const float multiplier = 1.0f / fused.scales.data<float>()[r / fused.block_rows()];
      for (std::int64_t w = 0; w < words; ++w) {
        for (std::uint64_t bits = outside[w]; bits != 0; bits &= bits - 1) {
          const std::int64_t c = 64 * w + std::countr_zero(bits);
          codes[c] = e4m3_encode(y[c] * multiplier);
        }
      }
    }
  });
}

}  // namespace nibble::quant_cpu
