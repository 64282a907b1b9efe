#include "nibble/ops/cpu/block_dot_x86.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>

// The products are one-line inline assembly: g++ 12 spills the accumulators of the intrinsic for vpdpbusd, and an
// older compiler or a baseline without the extension need not know it.

#define NIBBLE_AVX512 __attribute__((target("avx512f")))
#define NIBBLE_AVX512_INLINE __attribute__((target("avx512f"), always_inline)) inline
#define NIBBLE_AVX2 __attribute__((target("avx2")))
#define NIBBLE_AVX2_INLINE __attribute__((target("avx2"), always_inline)) inline

namespace nibble::cpu {
namespace {

constexpr std::int64_t kRows = kBlockRows;

inline std::int32_t four_bytes(const std::uint8_t* p) {
  std::int32_t x;
  std::memcpy(&x, p, 4);
  return x;
}

/// (The intrinsic makes g++ 12 warn of an uninitialised value of its own.)
NIBBLE_AVX512_INLINE __m512 to_floats(__m512i x) {
  return __builtin_convertvector(reinterpret_cast<__v16si>(x), __v16sf);
}

/// 6 rows x 2 vectors of 16 lanes: 12 int32 and 12 float accumulators of the 32 registers.
template <std::int64_t length>
NIBBLE_AVX512 void dot_avx512(const BlockTile& t) {
  __m512 c[kRows][2];
#pragma GCC unroll 6
  for (std::int64_t m = 0; m < kRows; ++m) {
    c[m][0] = t.overwrite ? _mm512_setzero_ps() : _mm512_load_ps(t.c + m * t.c_stride);
    c[m][1] = t.overwrite ? _mm512_setzero_ps() : _mm512_load_ps(t.c + m * t.c_stride + 16);
  }
  const std::uint8_t* a = t.a;
  const std::uint8_t* b = t.b;
  const float* scale_a = t.a_scales;
  for (std::int64_t block = 0; block < t.blocks; ++block, ++scale_a) {
    __m512i sum[kRows][2];
    const std::uint8_t* compensation = b + block_compensation_at(length);
#pragma GCC unroll 6
    for (std::int64_t m = 0; m < kRows; ++m) {
      sum[m][0] = _mm512_load_si512(compensation);
      sum[m][1] = _mm512_load_si512(compensation + 64);
    }
#pragma GCC unroll 8
    for (std::int64_t k = 0; k < length; k += 4) {
      const __m512i b0 = _mm512_load_si512(b + k * kBlockLanes);
      const __m512i b1 = _mm512_load_si512(b + k * kBlockLanes + 64);
#pragma GCC unroll 6
      for (std::int64_t m = 0; m < kRows; ++m) {
        const __m512i x = _mm512_set1_epi32(four_bytes(a + m * t.a_stride + k));
        asm("vpdpbusd %2, %1, %0" : "+v"(sum[m][0]) : "v"(x), "v"(b0));
        asm("vpdpbusd %2, %1, %0" : "+v"(sum[m][1]) : "v"(x), "v"(b1));
      }
    }
    const auto* scales = reinterpret_cast<const float*>(b + block_scales_at(length));
    const __m512 scale0 = _mm512_load_ps(scales);
    const __m512 scale1 = _mm512_load_ps(scales + 16);
#pragma GCC unroll 6
    for (std::int64_t m = 0; m < kRows; ++m) {
      const __m512 scale = _mm512_set1_ps(scale_a[m * t.a_scale_stride]);
      const __m512 p0 = _mm512_mul_ps(_mm512_mul_ps(to_floats(sum[m][0]), scale), scale0);
      const __m512 p1 = _mm512_mul_ps(_mm512_mul_ps(to_floats(sum[m][1]), scale), scale1);
      c[m][0] = _mm512_add_ps(c[m][0], p0);
      c[m][1] = _mm512_add_ps(c[m][1], p1);
    }
    a += length;
    b += block_bytes(length);
  }
#pragma GCC unroll 6
  for (std::int64_t m = 0; m < kRows; ++m) {
    _mm512_store_ps(t.c + m * t.c_stride, c[m][0]);
    _mm512_store_ps(t.c + m * t.c_stride + 16, c[m][1]);
  }
}

/// Sums of a block's products for 8 lanes; C stays in memory, for twelve accumulators leave four registers of 16.
struct AvxVnni {
  NIBBLE_AVX2_INLINE static __m256i begin(__m256i compensation) { return compensation; }
  NIBBLE_AVX2_INLINE static void add(__m256i& sum, __m256i x, __m256i b) {
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(x), "x"(b));
  }
  NIBBLE_AVX2_INLINE static __m256i end(__m256i sum, __m256i) { return sum; }
};

struct Avx2 {
  NIBBLE_AVX2_INLINE static __m256i begin(__m256i) { return _mm256_setzero_si256(); }
  NIBBLE_AVX2_INLINE static void add(__m256i& sum, __m256i x, __m256i b) {
    __m256i pairs;
    asm("vpmaddubsw %3, %2, %1\n vpaddw %1, %0, %0" : "+x"(sum), "=&x"(pairs) : "x"(x), "x"(b));
  }
  NIBBLE_AVX2_INLINE static __m256i end(__m256i sum, __m256i compensation) {
    const __m256i whole = _mm256_madd_epi16(sum, _mm256_set1_epi16(1));
    return _mm256_add_epi32(whole, compensation);
  }
};

NIBBLE_AVX2_INLINE __m256i load8(const std::uint8_t* p) {
  return _mm256_load_si256(reinterpret_cast<const __m256i*>(p));
}

template <class Dot, std::int64_t length>
NIBBLE_AVX2_INLINE void dot_avx2(const BlockTile& t) {
  if (t.overwrite) {
    for (std::int64_t m = 0; m < kRows; ++m) {
      for (std::int64_t n = 0; n < kBlockLanes; n += 8) {
        _mm256_store_ps(t.c + m * t.c_stride + n, _mm256_setzero_ps());
      }
    }
  }
  const std::uint8_t* a = t.a;
  const std::uint8_t* b = t.b;
  const float* scale_a = t.a_scales;
  for (std::int64_t block = 0; block < t.blocks; ++block, ++scale_a) {
    for (std::int64_t n = 0; n < kBlockLanes; n += 16) {
      const std::uint8_t* codes = b + 4 * n;
      const std::uint8_t* compensation = b + block_compensation_at(length) + 4 * n;
      __m256i sum[kRows][2];
#pragma GCC unroll 6
      for (std::int64_t m = 0; m < kRows; ++m) {
        sum[m][0] = Dot::begin(load8(compensation));
        sum[m][1] = Dot::begin(load8(compensation + 32));
      }
#pragma GCC unroll 8
      for (std::int64_t k = 0; k < length; k += 4) {
        const __m256i b0 = load8(codes + k * kBlockLanes);
        const __m256i b1 = load8(codes + k * kBlockLanes + 32);
#pragma GCC unroll 6
        for (std::int64_t m = 0; m < kRows; ++m) {
          const __m256i x = _mm256_set1_epi32(four_bytes(a + m * t.a_stride + k));
          Dot::add(sum[m][0], x, b0);
          Dot::add(sum[m][1], x, b1);
        }
      }
      const auto* scales = reinterpret_cast<const float*>(b + block_scales_at(length)) + n;
#pragma GCC unroll 6
      for (std::int64_t m = 0; m < kRows; ++m) {
        const __m256 scale = _mm256_set1_ps(scale_a[m * t.a_scale_stride]);
        float* c = t.c + m * t.c_stride + n;
#pragma GCC unroll 2
        for (std::int64_t i = 0; i < 2; ++i) {
          const __m256 dot = _mm256_cvtepi32_ps(Dot::end(sum[m][i], load8(compensation + 32 * i)));
          const __m256 p = _mm256_mul_ps(_mm256_mul_ps(dot, scale), _mm256_load_ps(scales + 8 * i));
          _mm256_store_ps(c + 8 * i, _mm256_add_ps(_mm256_load_ps(c + 8 * i), p));
        }
      }
    }
    a += length;
    b += block_bytes(length);
  }
}

}  // namespace

NIBBLE_AVX512 void block_dot16_avx512_vnni(const BlockTile& tile) { dot_avx512<16>(tile); }
NIBBLE_AVX512 void block_dot32_avx512_vnni(const BlockTile& tile) { dot_avx512<32>(tile); }
NIBBLE_AVX2 void block_dot16_avx_vnni(const BlockTile& tile) { dot_avx2<AvxVnni, 16>(tile); }
NIBBLE_AVX2 void block_dot32_avx_vnni(const BlockTile& tile) { dot_avx2<AvxVnni, 32>(tile); }
NIBBLE_AVX2 void block_dot16_avx2(const BlockTile& tile) { dot_avx2<Avx2, 16>(tile); }
NIBBLE_AVX2 void block_dot32_avx2(const BlockTile& tile) { dot_avx2<Avx2, 32>(tile); }

}  // namespace nibble::cpu
#endif
