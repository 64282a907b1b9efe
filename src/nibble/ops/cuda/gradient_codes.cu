// Passes bound by memory: 5 bytes an element to encode or decode, R + 1 to add. Scales stay on the device; maxima and
// counts are integers, whose order changes nothing.
#include "nibble/ops/backend.h"
#include "nibble/ops/gradient_codes.h"
#include "nibble/tensor/cuda/elementwise.cuh"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kMostBlocks = 1056;  // eight for each of an H100's multiprocessors

int blocks_for(std::int64_t packs) {
  const std::int64_t blocks = (packs + kThreads - 1) / kThreads;
  return static_cast<int>(blocks < kMostBlocks ? blocks : kMostBlocks);
}

/// Calls f.operator()<count>(first element) for this thread's packs of kWidth and its element of the rest.
template <int kWidth, class F>
__device__ __forceinline__ void for_packs(std::int64_t n, F&& f) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * kThreads;
  const std::int64_t packs = n / kWidth;
  for (std::int64_t i = thread; i < packs; i += stride) f.template operator()<kWidth>(i * kWidth);
  if (thread < n - packs * kWidth) f.template operator()<1>(packs * kWidth + thread);
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads) amax_kernel(const float* x, float* amax, std::int64_t n) {
  std::uint32_t top = 0;
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    const Pack<float, kCount> v = load_pack<kCount>(x + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) top = max(top, float_bits(v.v[k]) & 0x7FFF'FFFFu);
  });
  top = min(__reduce_max_sync(0xFFFF'FFFFu, top), 0x7F80'0000u);
  // Magnitudes order like their bits.
  if (threadIdx.x % 32 == 0) atomicMax(reinterpret_cast<unsigned*>(amax), top);
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    encode_kernel(const float* x, const float* amax, float divisor, std::uint8_t* codes, std::int64_t n) {
  const float sf = gradient_scale(*amax, divisor).sf;
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    const Pack<float, kCount> v = load_pack<kCount>(x + i);
    Pack<std::uint8_t, kCount> code;
#pragma unroll
    for (int k = 0; k < kCount; ++k) code.v[k] = e4m3_encode(v.v[k] * sf);
    store_pack(codes + i, code);
  });
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    decode_kernel(const std::uint8_t* codes, const float* amax, float divisor, float* x, std::int64_t n) {
  const float inv = gradient_scale(*amax, divisor).inv;
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    const Pack<std::uint8_t, kCount> code = load_pack<kCount>(codes + i);
    Pack<float, kCount> v;
#pragma unroll
    for (int k = 0; k < kCount; ++k) v.v[k] = e4m3_decode(code.v[k]) * inv;
    store_pack(x + i, v);
  });
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    add_kernel(const std::uint8_t* codes, int ranks, std::uint8_t* sum, std::int32_t* saturated, std::int64_t n) {
  std::int32_t count = 0;
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    float total[kCount];
    for (int r = 0; r < ranks; ++r) {
      const Pack<std::uint8_t, kCount> code = load_pack<kCount>(codes + r * n + i);
#pragma unroll
      for (int k = 0; k < kCount; ++k) total[k] = r == 0 ? e4m3_decode(code.v[k]) : total[k] + e4m3_decode(code.v[k]);
    }
    Pack<std::uint8_t, kCount> result;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      count += float_abs(total[k]) > kE4M3Max ? 1 : 0;
      result.v[k] = e4m3_encode(total[k]);
    }
    store_pack(sum + i, result);
  });
  count = __reduce_add_sync(0xFFFF'FFFFu, count);
  if (threadIdx.x % 32 == 0 && count > 0) atomicAdd(saturated, count);
}

}  // namespace

void update_amax(const Tensor& x, const Tensor& amax) {
  const auto* from = device_data<float>(x, "update_amax");
  auto* to = device_data<float>(amax, "update_amax");
  const std::int64_t n = x.numel();
  if (n == 0) return;
  const bool packs = packs_fit(from);
  (packs ? amax_kernel<4> : amax_kernel<1>)<<<blocks_for(packs ? (n + 3) / 4 : n), kThreads, 0, stream()>>>(from, to,
                                                                                                            n);
  launched("update_amax");
}

void encode_gradient(const Tensor& x, const Tensor& amax, float divisor, const Tensor& codes) {
  const auto* from = device_data<float>(x, "encode_gradient");
  auto* to = device_data<std::uint8_t>(codes, "encode_gradient");
  const std::int64_t n = x.numel();
  if (n == 0) return;
  const bool packs = packs_fit(from, to);
  (packs ? encode_kernel<4> : encode_kernel<1>)<<<blocks_for(packs ? (n + 3) / 4 : n), kThreads, 0, stream()>>>(
      from, device_data<float>(amax, "encode_gradient"), divisor, to, n);
  launched("encode_gradient");
}

void add_gradient_codes(const Tensor& codes, int ranks, const Tensor& sum, const Tensor& saturated) {
  const auto* from = device_data<std::uint8_t>(codes, "add_gradient_codes");
  auto* to = device_data<std::uint8_t>(sum, "add_gradient_codes");
  const std::int64_t n = sum.numel();
  if (n == 0) return;
  const bool packs = packs_fit(from, to) && n % 16 == 0;  // every rank's codes begin where a pack may
  (packs ? add_kernel<16> : add_kernel<1>)<<<blocks_for(packs ? n / 16 : n), kThreads, 0, stream()>>>(
      from, ranks, to, device_data<std::int32_t>(saturated, "add_gradient_codes"), n);
  launched("add_gradient_codes");
}

void decode_gradient(const Tensor& codes, const Tensor& amax, float divisor, const Tensor& x) {
  const auto* from = device_data<std::uint8_t>(codes, "decode_gradient");
  auto* to = device_data<float>(x, "decode_gradient");
  const std::int64_t n = x.numel();
  if (n == 0) return;
  const bool packs = packs_fit(from, to);
  (packs ? decode_kernel<4> : decode_kernel<1>)<<<blocks_for(packs ? (n + 3) / 4 : n), kThreads, 0, stream()>>>(
      from, device_data<float>(amax, "decode_gradient"), divisor, to, n);
  launched("decode_gradient");
}

}  // namespace nibble::cuda
