// AdamW with scaled states. Two passes over 9 bytes a parameter: the first measures the updated values, the second
// computes them again and stores them by the scales that follow, for 9 more bytes. Close to the balance of memory and
// arithmetic: some eighty instructions a parameter in either pass. A thread takes four parameters. Maxima are those of
// the bits of magnitudes, integers, so their order changes nothing; scales never leave the device.
#include <cuda_fp16.h>

#include "nibble/numerics/fp16.h"
#include "nibble/numerics/fp8.h"
#include "nibble/optim/adamw_element.h"
#include "nibble/optim/backend.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;

__device__ __forceinline__ std::int32_t magnitude_bits(float x) {
  return static_cast<std::int32_t>(float_bits(x) & 0x7FFF'FFFFu);
}

/// The largest of the block, in every thread.
template <int kBlock>
__device__ std::int32_t block_max(std::int32_t value) {
  __shared__ std::int32_t of_warp[kBlock / 32];
  value = __reduce_max_sync(0xFFFF'FFFFu, value);
  if (threadIdx.x % 32 == 0) of_warp[threadIdx.x / 32] = value;
  __syncthreads();
  std::int32_t top = of_warp[0];
#pragma unroll
  for (int w = 1; w < kBlock / 32; ++w) top = max(top, of_warp[w]);
  __syncthreads();
  return top;
}

struct ScalePair {
  float sf;
  float inv;
};

/// sf = 2^floor(log2(fp_max / amax)), its exponent held to [-126, 126]; the quotient of floats in double is on the
/// right side of every power of two.
__device__ ScalePair choose_scale(float fp_max, std::int32_t amax_bits, float previous_inv) {
  const float amax = bits_float(static_cast<std::uint32_t>(amax_bits));
  if (amax > 0 && float_is_finite(amax)) {
    const int e = min(max(ilogb(static_cast<double>(fp_max) / static_cast<double>(amax)), -126), 126);
    return {exp2_int(e), exp2_int(-e)};
  }
  const bool usable = previous_inv > 0 && float_is_finite(previous_inv);  // not in zero-filled memory
  return usable ? ScalePair{1.0f / previous_inv, previous_inv} : ScalePair{1.0f, 1.0f};
}

__device__ __forceinline__ float decode(std::uint8_t code) { return e4m3_decode(code); }
__device__ __forceinline__ float decode(std::uint16_t code) { return __half2float(__ushort_as_half(code)); }
template <class T>
__device__ __forceinline__ T encode(float x) {
  if constexpr (sizeof(T) == 1) return e4m3_encode(x);
  if constexpr (sizeof(T) == 2) return fp16_encode_saturate(x);
}
template <class T>
inline constexpr float kMaxOf = sizeof(T) == 1 ? kE4M3Max : kFp16Max;

/// Calls f.operator()<count>(first element) for the packs of four and the rest of n elements.
template <int kWidth, class F>
__device__ __forceinline__ void for_packs(std::int64_t n, F&& f) {
  const std::int64_t thread = static_cast<std::int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  const std::int64_t stride = static_cast<std::int64_t>(gridDim.x) * blockDim.x;
  const std::int64_t packs = n / kWidth;
  for (std::int64_t i = thread; i < packs; i += stride) f.template operator()<kWidth>(i * kWidth);
  if (thread < n - packs * kWidth) f.template operator()<1>(packs * kWidth + thread);
}

struct State {
  std::uint16_t* master;
  std::uint8_t* m;
  std::uint16_t* v;
  float* master_inv;
  float* m_inv;
  float* v_inv;
};

/// What a step stores by, of master, m and v.
struct Scales {
  float previous_inv[3];
  ScalePair chosen[3];
};

template <int kWidth>
struct Updated {
  float p[kWidth], m[kWidth], v[kWidth];
};

/// The updated values of elements [i, i + kWidth), in float.
template <int kWidth>
__device__ __forceinline__ Updated<kWidth> updated(const State& s, const float* grad, const AdamWFactors& f,
                                                   const float (&inv)[3], std::int64_t i) {
  const Pack<float, kWidth> g = load_pack<kWidth>(grad + i);
  const Pack<std::uint16_t, kWidth> master = load_pack<kWidth>(s.master + i);
  const Pack<std::uint8_t, kWidth> m = load_pack<kWidth>(s.m + i);
  const Pack<std::uint16_t, kWidth> v = load_pack<kWidth>(s.v + i);
  Updated<kWidth> x;
#pragma unroll
  for (int k = 0; k < kWidth; ++k) {
    x.p[k] = decode(master.v[k]) * inv[0];
    x.m[k] = decode(m.v[k]) * inv[1];
    x.v[k] = decode(v.v[k]) * inv[2];
    adamw_element(f, g.v[k], x.p[k], x.m[k], x.v[k]);
  }
  return x;
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    measure_kernel(State s, const float* grad, AdamWFactors f, std::int32_t* amax, std::int64_t n) {
  const float inv[3] = {*s.master_inv, *s.m_inv, *s.v_inv};
  std::int32_t top[3] = {0, 0, 0};
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    const Updated<kCount> x = updated<kCount>(s, grad, f, inv, i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      top[0] = max(top[0], magnitude_bits(x.p[k]));
      top[1] = max(top[1], magnitude_bits(x.m[k]));
      top[2] = max(top[2], magnitude_bits(x.v[k]));
    }
  });
#pragma unroll
  for (int t = 0; t < 3; ++t) {
    const std::int32_t largest = block_max<kThreads>(top[t]);
    if (threadIdx.x == 0) atomicMax(&amax[t], largest);
  }
}

/// One thread a tensor.
__global__ void choose_kernel(State s, const std::int32_t* amax, Scales* scales) {
  const unsigned t = threadIdx.x;
  float* inv = t == 0 ? s.master_inv : t == 1 ? s.m_inv : s.v_inv;
  const ScalePair chosen = choose_scale(t == 1 ? kE4M3Max : kFp16Max, amax[t], *inv);
  scales->previous_inv[t] = *inv;
  scales->chosen[t] = chosen;
  *inv = chosen.inv;
}

template <int kWidth>
__global__ void __launch_bounds__(kThreads)
    requantise_kernel(State s, const float* grad, AdamWFactors f, const Scales* scales, float* param, std::int64_t n) {
  const float inv[3] = {scales->previous_inv[0], scales->previous_inv[1], scales->previous_inv[2]};
  const ScalePair master = scales->chosen[0];
  const float m_sf = scales->chosen[1].sf;
  const float v_sf = scales->chosen[2].sf;
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    const Updated<kCount> x = updated<kCount>(s, grad, f, inv, i);
    Pack<float, kCount> p;
    Pack<std::uint16_t, kCount> code;
    Pack<std::uint8_t, kCount> m;
    Pack<std::uint16_t, kCount> v;
#pragma unroll
    for (int k = 0; k < kCount; ++k) {
      code.v[k] = encode<std::uint16_t>(x.p[k] * master.sf);
      p.v[k] = decode(code.v[k]) * master.inv;
      m.v[k] = encode<std::uint8_t>(x.m[k] * m_sf);
      v.v[k] = encode<std::uint16_t>(x.v[k] * v_sf);
    }
    store_pack(s.master + i, code);
    store_pack(param + i, p);
    store_pack(s.m + i, m);
    store_pack(s.v + i, v);
  });
}

constexpr int kScaleThreads = 1024;

template <int kWidth>
__global__ void __launch_bounds__(kThreads) amax_kernel(const float* x, std::int32_t* amax, std::int64_t n) {
  std::int32_t top = 0;
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    const Pack<float, kCount> from = load_pack<kCount>(x + i);
#pragma unroll
    for (int k = 0; k < kCount; ++k) top = max(top, magnitude_bits(from.v[k]));
  });
  top = block_max<kThreads>(top);
  if (threadIdx.x == 0) atomicMax(amax, top);
}

__global__ void scale_of_kernel(const std::int32_t* amax, float fp_max, float* inv) {
  *inv = choose_scale(fp_max, *amax, *inv).inv;
}

/// The scale of a whole tensor, by one block: for state that is stored once a run, not once a step, so that no memory
/// is wanted in between.
template <int kWidth>
__global__ void __launch_bounds__(kScaleThreads)
    scale_kernel(const float* x, float fp_max, float* inv, std::int64_t n) {
  std::int32_t top = 0;
  const std::int64_t packs = n / kWidth;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x; i < packs; i += kScaleThreads) {
    const Pack<float, kWidth> pack = load_pack<kWidth>(x + i * kWidth);
#pragma unroll
    for (int k = 0; k < kWidth; ++k) top = max(top, magnitude_bits(pack.v[k]));
  }
  for (std::int64_t i = packs * kWidth + threadIdx.x; i < n; i += kScaleThreads) top = max(top, magnitude_bits(x[i]));
  top = block_max<kScaleThreads>(top);
  if (threadIdx.x == 0) *inv = choose_scale(fp_max, top, *inv).inv;
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads) store_kernel(const float* x, const float* inv, T* to, std::int64_t n) {
  const float sf = 1.0f / *inv;  // exact where the scale was chosen, and how a previous one is taken up again
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    const Pack<float, kCount> from = load_pack<kCount>(x + i);
    Pack<T, kCount> codes;
#pragma unroll
    for (int k = 0; k < kCount; ++k) codes.v[k] = encode<T>(from.v[k] * sf);
    store_pack(to + i, codes);
  });
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads) load_kernel(const T* from, const float* inv, float* x, std::int64_t n) {
  const float factor = *inv;
  for_packs<kWidth>(n, [&]<int kCount>(std::int64_t i) {
    const Pack<T, kCount> codes = load_pack<kCount>(from + i);
    Pack<float, kCount> values;
#pragma unroll
    for (int k = 0; k < kCount; ++k) values.v[k] = decode(codes.v[k]) * factor;
    store_pack(x + i, values);
  });
}

template <class F>
void dispatch_scaled(const ScaledTensor& s, const char* what, F&& f) {
  if (s.data.dtype() == DType::U8) return f(device_data<std::uint8_t>(s.data, what));
  f(device_data<std::uint16_t>(s.data, what));
}

/// Under the scale that stands behind `inv`.
template <class T>
void store(const float* from, const float* inv, T* to, std::int64_t n) {
  const unsigned grid = grid_for((n + 3) / 4, kThreads);
  if (packs_fit(from, to)) {
    store_kernel<4><<<grid, kThreads, 0, stream()>>>(from, inv, to, n);
  } else {
    store_kernel<1><<<grid, kThreads, 0, stream()>>>(from, inv, to, n);
  }
}

}  // namespace

void scaled_store(const Tensor& x, const ScaledTensor& to) {
  const std::int64_t n = x.numel();
  const auto* from = device_data<float>(x, "scaled_store");
  auto* inv = device_data<float>(to.scale_inv, "scaled_store");
  dispatch_scaled(to, "scaled_store", [&]<class T>(T* data) {
    if (packs_fit(from)) {
      scale_kernel<4><<<1, kScaleThreads, 0, stream()>>>(from, kMaxOf<T>, inv, n);
    } else {
      scale_kernel<1><<<1, kScaleThreads, 0, stream()>>>(from, kMaxOf<T>, inv, n);
    }
    store(from, inv, data, n);
  });
  launched("scaled_store");
}

void scaled_measure(const Tensor& x, const Tensor& amax) {
  const std::int64_t n = x.numel();
  const auto* from = device_data<float>(x, "scaled_measure");
  auto* top = device_data<std::int32_t>(amax, "scaled_measure");
  const unsigned grid = grid_for((n + 3) / 4, kThreads);
  if (packs_fit(from)) {
    amax_kernel<4><<<grid, kThreads, 0, stream()>>>(from, top, n);
  } else {
    amax_kernel<1><<<grid, kThreads, 0, stream()>>>(from, top, n);
  }
  launched("scaled_measure");
}

void scaled_store(const Tensor& x, const Tensor& amax, const ScaledTensor& to) {
  const std::int64_t n = x.numel();
  const auto* from = device_data<float>(x, "scaled_store");
  const auto* top = device_data<std::int32_t>(amax, "scaled_store");
  auto* inv = device_data<float>(to.scale_inv, "scaled_store");
  dispatch_scaled(to, "scaled_store", [&]<class T>(T* data) {
    scale_of_kernel<<<1, 1, 0, stream()>>>(top, kMaxOf<T>, inv);
    if (n > 0) store(from, inv, data, n);
  });
  launched("scaled_store");
}

void scaled_load(const ScaledTensor& from, const Tensor& x) {
  const std::int64_t n = x.numel();
  if (n == 0) return;
  auto* to = device_data<float>(x, "scaled_load");
  const auto* inv = device_data<float>(from.scale_inv, "scaled_load");
  dispatch_scaled(from, "scaled_load", [&]<class T>(const T* data) {
    const unsigned grid = grid_for((n + 3) / 4, kThreads);
    if (packs_fit(data, to)) {
      load_kernel<4><<<grid, kThreads, 0, stream()>>>(data, inv, to, n);
    } else {
      load_kernel<1><<<grid, kThreads, 0, stream()>>>(data, inv, to, n);
    }
  });
  launched("scaled_load");
}

namespace {

State state_of(const ScaledTensor& master, const ScaledTensor& m, const ScaledTensor& v, const char* what) {
  return {device_data<std::uint16_t>(master.data, what), device_data<std::uint8_t>(m.data, what),
          device_data<std::uint16_t>(v.data, what),      device_data<float>(master.scale_inv, what),
          device_data<float>(m.scale_inv, what),         device_data<float>(v.scale_inv, what)};
}

}  // namespace

void adamw_fp8_measure(const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m, const ScaledTensor& v,
                       const AdamWStep& step, const Tensor& amax) {
  constexpr const char* kWhat = "adamw_fp8_measure";
  const std::int64_t n = grad.numel();
  const AdamWFactors f = adamw_factors(step);
  const auto* g = device_data<float>(grad, kWhat);
  auto* top = device_data<std::int32_t>(amax, kWhat);
  const State state = state_of(master, m, v, kWhat);
  const unsigned grid = grid_for((n + 3) / 4, kThreads);
  if (packs_fit(g, state.master, state.m, state.v)) {
    measure_kernel<4><<<grid, kThreads, 0, stream()>>>(state, g, f, top, n);
  } else {
    measure_kernel<1><<<grid, kThreads, 0, stream()>>>(state, g, f, top, n);
  }
  launched(kWhat);
}

void adamw_fp8_store(const Tensor& param, const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m,
                     const ScaledTensor& v, const AdamWStep& step, const Tensor& amax, Arena& scratch) {
  constexpr const char* kWhat = "adamw_fp8_store";
  const std::int64_t n = param.numel();
  const AdamWFactors f = adamw_factors(step);
  const auto* g = device_data<float>(grad, kWhat);
  auto* out = device_data<float>(param, kWhat);
  const State state = state_of(master, m, v, kWhat);

  const ArenaScope scope(scratch);
  const Tensor memory = scratch.allocate(DType::U8, {static_cast<std::int64_t>(sizeof(Scales))});
  auto* scales = reinterpret_cast<Scales*>(device_data<std::uint8_t>(memory, kWhat));
  choose_kernel<<<1, 3, 0, stream()>>>(state, device_data<std::int32_t>(amax, kWhat), scales);
  const unsigned grid = grid_for((n + 3) / 4, kThreads);
  if (n == 0) {
    // A rank without rows knows the scales all the same.
  } else if (packs_fit(g, out, state.master, state.m, state.v)) {
    requantise_kernel<4><<<grid, kThreads, 0, stream()>>>(state, g, f, scales, out, n);
  } else {
    requantise_kernel<1><<<grid, kThreads, 0, stream()>>>(state, g, f, scales, out, n);
  }
  launched(kWhat);
}

}  // namespace nibble::cuda
