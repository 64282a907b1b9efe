#include "nibble/ops/gradient_codes.h"

#include <algorithm>
#include <atomic>
#include <vector>

#include "nibble/ops/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

constexpr std::int64_t kGrain = 1 << 15;
constexpr std::uint32_t kInfinity = 0x7F80'0000u;

// The bits of magnitudes order like them, NaN at the top.
NIBBLE_SIMD std::uint32_t largest(const float* x, std::int64_t n) {
  std::uint32_t top = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t bits = float_bits(x[i]) & 0x7FFF'FFFFu;
    top = bits > top ? bits : top;
  }
  return top;
}

NIBBLE_SIMD void encode(const float* x, float sf, std::uint8_t* codes, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) codes[i] = e4m3_encode(x[i] * sf);
}

NIBBLE_SIMD void decode(const std::uint8_t* codes, float inv, float* x, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) x[i] = e4m3_decode(codes[i]) * inv;
}

/// How many saturated.
NIBBLE_SIMD std::int32_t add(const std::uint8_t* codes, int ranks, std::int64_t stride, std::uint8_t* sum,
                             std::int64_t n) {
  std::int32_t saturated = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    float total = e4m3_decode(codes[i]);
    for (int r = 1; r < ranks; ++r) total += e4m3_decode(codes[r * stride + i]);
    saturated += float_abs(total) > kE4M3Max ? 1 : 0;
    sum[i] = e4m3_encode(total);
  }
  return saturated;
}

GradientScale scale_of(const Tensor& amax, float divisor) { return gradient_scale(*amax.data<float>(), divisor); }

}  // namespace

void update_amax(const Tensor& x, const Tensor& amax) {
  const auto* from = x.data<float>();
  const std::int64_t n = x.numel();
  std::vector<std::uint32_t> tops(static_cast<std::size_t>((n + kGrain - 1) / kGrain));
  parallel_for(n, kGrain, [&](std::int64_t b, std::int64_t e) {
    tops[static_cast<std::size_t>(b / kGrain)] = largest(from + b, e - b);
  });
  std::uint32_t top = float_bits(*amax.data<float>());
  for (const std::uint32_t bits : tops) top = std::max(top, bits);
  *amax.data<float>() = bits_float(std::min(top, kInfinity));
}

void encode_gradient(const Tensor& x, const Tensor& amax, float divisor, const Tensor& codes) {
  const GradientScale scale = scale_of(amax, divisor);
  const auto* from = x.data<float>();
  auto* to = codes.data<std::uint8_t>();
  parallel_for(x.numel(), kGrain, [&](std::int64_t b, std::int64_t e) { encode(from + b, scale.sf, to + b, e - b); });
}

void add_gradient_codes(const Tensor& codes, int ranks, const Tensor& sum, const Tensor& saturated) {
  const auto* from = codes.data<std::uint8_t>();
  auto* to = sum.data<std::uint8_t>();
  const std::int64_t n = sum.numel();
  std::atomic<std::int32_t> count{0};
  parallel_for(n, kGrain, [&](std::int64_t b, std::int64_t e) { count += add(from + b, ranks, n, to + b, e - b); });
  *saturated.data<std::int32_t>() += count;
}

void decode_gradient(const Tensor& codes, const Tensor& amax, float divisor, const Tensor& x) {
  const GradientScale scale = scale_of(amax, divisor);
  const auto* from = codes.data<std::uint8_t>();
  auto* to = x.data<float>();
  parallel_for(x.numel(), kGrain, [&](std::int64_t b, std::int64_t e) { decode(from + b, scale.inv, to + b, e - b); });
}

}  // namespace nibble::cpu
