#include "nibble/ops/cpu/block_dot.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "nibble/ops/cpu/block_dot_x86.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif

namespace nibble::cpu {
namespace {

typedef std::int8_t Bytes8 __attribute__((vector_size(8)));
typedef std::uint8_t UnsignedBytes8 __attribute__((vector_size(8)));
typedef std::int16_t Words8 __attribute__((vector_size(16)));

typedef std::int32_t Ints4 __attribute__((vector_size(16)));
typedef float Floats4 __attribute__((vector_size(16)));

template <class Vector>
Vector load(const void* p) {
  Vector x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

/// The two int16 of each int32, summed.
inline Ints4 sum_pairs(Words8 x) {
  const auto y = reinterpret_cast<Ints4>(x);
  return ((y << 16) >> 16) + (y >> 16);
}

/// Vectors of 16 bytes, which SSE2 and NEON have: each int16 sums one of four products of a lane over the block, so two
/// lanes to a vector. Twelve sums of 16 (NEON: 32) registers.
template <std::int64_t length>
void dot_portable(const BlockTile& t) {
  constexpr std::int64_t kRows = kBlockRows;
  if (t.overwrite) {
    for (std::int64_t m = 0; m < kRows; ++m) std::fill_n(t.c + m * t.c_stride, kBlockLanes, 0.0f);
  }
  const std::uint8_t* b = t.b;
  for (std::int64_t block = 0; block < t.blocks; ++block, b += block_bytes(length)) {
    Words8 a[kRows][length / 4];  // four elements, twice
    for (std::int64_t m = 0; m < kRows; ++m) {
      const std::uint8_t* row = t.a + m * t.a_stride + block * length;
      for (std::int64_t k = 0; k < length / 4; ++k) {
        const auto four = load<std::uint32_t>(row + 4 * k);
        const std::uint32_t twice[2] = {four, four};
        a[m][k] = __builtin_convertvector(load<UnsignedBytes8>(twice), Words8);
      }
    }
    const std::uint8_t* compensation = b + block_compensation_at(length);
    const std::uint8_t* scales = b + block_scales_at(length);
    for (std::int64_t n = 0; n < kBlockLanes; n += 4) {
      Words8 sum[kRows][2] = {};
#pragma GCC unroll 8
      for (std::int64_t k = 0; k < length / 4; ++k) {
        const std::uint8_t* codes = b + 4 * (k * kBlockLanes + n);
        const Words8 b0 = __builtin_convertvector(load<Bytes8>(codes), Words8);
        const Words8 b1 = __builtin_convertvector(load<Bytes8>(codes + 8), Words8);
#pragma GCC unroll 6
        for (std::int64_t m = 0; m < kRows; ++m) {
          sum[m][0] += a[m][k] * b0;
          sum[m][1] += a[m][k] * b1;
        }
      }
      const auto scale_b = load<Floats4>(scales + 4 * n);
#pragma GCC unroll 6
      for (std::int64_t m = 0; m < kRows; ++m) {
        const Ints4 low = sum_pairs(sum[m][0]);
        const Ints4 high = sum_pairs(sum[m][1]);
        const Ints4 dot = __builtin_shufflevector(low, high, 0, 2, 4, 6) +
                          __builtin_shufflevector(low, high, 1, 3, 5, 7) + load<Ints4>(compensation + 4 * n);
        float* c = t.c + m * t.c_stride + n;
        const Floats4 scaled = __builtin_convertvector(dot, Floats4) * t.a_scales[m * t.a_scale_stride + block];
        const Floats4 result = load<Floats4>(c) + scaled * scale_b;
        std::memcpy(c, &result, sizeof result);
      }
    }
  }
}

#if defined(__x86_64__)
/// (Not every compiler's __builtin_cpu_supports knows the name. That the system keeps ymm registers, AVX2 says.)
bool has_avx_vnni() {
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  return __builtin_cpu_supports("avx2") && __get_cpuid_count(7, 1, &eax, &ebx, &ecx, &edx) != 0 && (eax >> 4 & 1) != 0;
}
#endif

std::vector<BlockDotKernel> runnable_kernels() {
  std::vector<BlockDotKernel> kernels;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni")) {
    kernels.push_back({"avx512-vnni", block_dot16_avx512_vnni, block_dot32_avx512_vnni});
  }
  if (has_avx_vnni()) kernels.push_back({"avx-vnni", block_dot16_avx_vnni, block_dot32_avx_vnni});
  if (__builtin_cpu_supports("avx2")) kernels.push_back({"avx2", block_dot16_avx2, block_dot32_avx2});
#endif
  kernels.push_back({"portable", dot_portable<16>, dot_portable<32>});
  return kernels;
}

}  // namespace

std::span<const BlockDotKernel> block_dot_kernels() {
  static const std::vector<BlockDotKernel> kernels = runnable_kernels();
  return kernels;
}

}  // namespace nibble::cpu
