// Several neighbouring elements that are read and written at once: accesses of up to 16 bytes.
#pragma once

#include <cstdint>
#include <type_traits>

#include "nibble/numerics/bf16.h"

namespace nibble::cuda {

template <class T, int kCount>
struct alignas(sizeof(T) * kCount < 16 ? sizeof(T) * kCount : 16) Pack {
  T v[kCount];
};

template <int kCount, class T>
__device__ __forceinline__ Pack<T, kCount> load_pack(const T* from) {
  return *reinterpret_cast<const Pack<T, kCount>*>(from);
}
template <int kCount, class T>
__device__ __forceinline__ void store_pack(T* to, const Pack<T, kCount>& pack) {
  *reinterpret_cast<Pack<T, kCount>*>(to) = pack;
}

/// The same as floats, from and to storage in F32 or BF16.
template <int kCount, class T>
__device__ __forceinline__ void load_floats(const T* from, float (&x)[kCount]) {
  const Pack<T, kCount> pack = load_pack<kCount>(from);
#pragma unroll
  for (int i = 0; i < kCount; ++i) x[i] = to_float(pack.v[i]);
}
/// BF16 elements two in a word, as they lie in memory.
template <int kPairs>
using BF16Pairs = Pack<std::uint32_t, kPairs>;

template <int kPairs>
__device__ __forceinline__ BF16Pairs<kPairs> load_pairs(const bf16* from) {
  return load_pack<kPairs>(reinterpret_cast<const std::uint32_t*>(from));
}
template <int kPairs>
__device__ __forceinline__ void store_pairs(bf16* to, const BF16Pairs<kPairs>& pairs) {
  store_pack(reinterpret_cast<std::uint32_t*>(to), pairs);
}

/// Two elements nearest to floats, at the rate of the conversion unit. NaN gets other bits than bf16_encode gives it.
__device__ __forceinline__ std::uint32_t bf16_pair(float low, float high) {
  std::uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}

/// bf16_encode(x), whose NaN it keeps.
template <int kCount>
__device__ __forceinline__ BF16Pairs<kCount / 2> bf16_pairs(const float (&x)[kCount]) {
  BF16Pairs<kCount / 2> pairs;
  bool has_nan = false;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    pairs.v[i] = bf16_pair(x[2 * i], x[2 * i + 1]);
    has_nan |= isunordered(x[2 * i], x[2 * i + 1]) != 0;
  }
  if (!has_nan) return pairs;
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    pairs.v[i] = bf16_encode(x[2 * i]).bits | static_cast<std::uint32_t>(bf16_encode(x[2 * i + 1]).bits) << 16;
  }
  return pairs;
}

template <int kCount>
__device__ __forceinline__ void floats_of(const std::uint32_t* pairs, float (&x)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount / 2; ++i) {
    x[2 * i] = bits_float(pairs[i] << 16);
    x[2 * i + 1] = bits_float(pairs[i] & 0xFFFF'0000u);
  }
}
template <int kPairs>
__device__ __forceinline__ void floats_of(const BF16Pairs<kPairs>& pairs, float (&x)[2 * kPairs]) {
  floats_of(pairs.v, x);
}

template <int kCount, class T>
__device__ __forceinline__ void store_floats(T* to, const float (&x)[kCount]) {
  if constexpr (std::is_same_v<T, bf16> && kCount % 2 == 0) {
    store_pairs(to, bf16_pairs(x));
  } else {
    Pack<T, kCount> pack;
#pragma unroll
    for (int i = 0; i < kCount; ++i) pack.v[i] = from_float<T>(x[i]);
    store_pack(to, pack);
  }
}

/// Whether packs may be read at these addresses: arenas and buffers begin at multiples of 64 bytes, but a row of a
/// matrix may lie anywhere.
template <class... P>
bool packs_fit(const P*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % 16 == 0) && ...);
}

}  // namespace nibble::cuda
