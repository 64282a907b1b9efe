// Several neighbouring elements that are read and written at once: accesses of up to 16 bytes.
#pragma once

#include <cstdint>

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
template <int kCount, class T>
__device__ __forceinline__ void store_floats(T* to, const float (&x)[kCount]) {
  Pack<T, kCount> pack;
#pragma unroll
  for (int i = 0; i < kCount; ++i) pack.v[i] = from_float<T>(x[i]);
  store_pack(to, pack);
}

/// Whether packs may be read at these addresses: arenas and buffers begin at multiples of 64 bytes, but a row of a
/// matrix may lie anywhere.
template <class... P>
bool packs_fit(const P*... p) {
  return ((reinterpret_cast<std::uintptr_t>(p) % 16 == 0) && ...);
}

}  // namespace nibble::cuda
