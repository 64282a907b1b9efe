// Codes of four and eight bits, from memory to registers: several of them at a time, exactly.
#pragma once

#include <cstdint>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/fp8.h"
#include "nibble/numerics/int4.h"
#include "nibble/quant/qtensor.h"
#include "nibble/tensor/cuda/pack.cuh"

namespace nibble::cuda {

/// The codes as they lie in memory.
struct Stored {
  const std::uint8_t* codes;
  std::int64_t row_bytes;
  std::int64_t rows;
  /// Pieces of this many bytes at multiples of it within a row can be loaded at once.
  int alignment;
};

inline std::uintptr_t address(const void* p) { return reinterpret_cast<std::uintptr_t>(p); }

inline Stored stored(const QTensor& q) {
  require(q.codes.device() == Device::Cuda, "gemm: the operand {} is not on the GPU", to_string(q.codes));
  require(q.rows < (std::int64_t{1} << 31) && q.cols < (std::int64_t{1} << 31), "gemm: an operand of {} x {}", q.rows,
          q.cols);
  Stored x{static_cast<const std::uint8_t*>(q.codes.raw()), q.code_row_bytes(), q.rows, 16};
  while ((address(x.codes) | static_cast<std::uintptr_t>(x.row_bytes)) % static_cast<unsigned>(x.alignment) != 0) {
    x.alignment /= 2;
  }
  return x;
}

/// kBytes at `from`, of which `valid` (any number) lie within the row; zeros beyond.
template <int kBytes>
__device__ inline void load_piece(const std::uint8_t* from, std::int64_t valid, bool aligned, std::uint32_t* words) {
  if (aligned && valid >= kBytes) {
    if constexpr (kBytes == 16) {
      const uint4 piece = *reinterpret_cast<const uint4*>(from);
      words[0] = piece.x;
      words[1] = piece.y;
      words[2] = piece.z;
      words[3] = piece.w;
    } else if constexpr (kBytes == 8) {
      const uint2 piece = *reinterpret_cast<const uint2*>(from);
      words[0] = piece.x;
      words[1] = piece.y;
    } else if constexpr (kBytes == 4) {
      words[0] = *reinterpret_cast<const std::uint32_t*>(from);
    } else {
      words[0] = *reinterpret_cast<const std::uint16_t*>(from);
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < (kBytes + 3) / 4; ++i) words[i] = 0;
#pragma unroll
  for (int i = 0; i < kBytes; ++i) {
    if (i < valid) words[i / 4] |= std::uint32_t{from[i]} << 8 * (i % 4);
  }
}

/// The E4M3 bytes of the magnitudes 0 to 7 of a four-bit format, all of which are exact: two words of four.
struct FourBitTable {
  std::uint32_t low = 0;
  std::uint32_t high = 0;
};

inline FourBitTable four_bit_table(ElementFormat element) {
  FourBitTable table;
  for (unsigned code = 0; code < 8; ++code) {
    const auto c = static_cast<std::uint8_t>(code);
    const float value = element == ElementFormat::Int4   ? int4_decode(c)
                        : element == ElementFormat::E3M0 ? e3m0_decode(c)
                                                         : e2m1_decode(c);
    (code < 4 ? table.low : table.high) |= std::uint32_t{e4m3_encode(value)} << 8 * (code % 4);
  }
  return table;
}

/// Four codes, the first in the lowest nibble, to four E4M3 bytes. The permutation looks all four magnitudes up at
/// once.
__device__ inline std::uint32_t e4m3_of_four(std::uint32_t codes, const FourBitTable& table) {
  const std::uint32_t magnitudes = __byte_perm(table.low, table.high, codes & 0x7777u);
  const std::uint32_t signs = __byte_perm(0x8000u, 0u, (codes >> 3) & 0x1111u);
  return magnitudes | signs;
}

__device__ inline void floats_of_halves(std::uint32_t halves, float* out) {
  asm("{.reg .b16 low, high;\n\t"
      "mov.b32 {low, high}, %2;\n\t"
      "cvt.f32.f16 %0, low;\n\t"
      "cvt.f32.f16 %1, high;}"
      : "=f"(out[0]), "=f"(out[1])
      : "r"(halves));
}

/// The values of four bytes. Both formats are exact in binary16, and that in F32.
__device__ inline void floats_of_e4m3(std::uint32_t bytes, float* out) {
  std::uint32_t halves;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(bytes)));
  floats_of_halves(halves, out);
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(halves) : "h"(static_cast<std::uint16_t>(bytes >> 16)));
  floats_of_halves(halves, out + 2);
}
__device__ inline void floats_of_e5m2(std::uint32_t bytes, float* out) {
  // E5M2 is the upper half of a binary16.
  floats_of_halves(__byte_perm(bytes, 0u, 0x1404u), out);
  floats_of_halves(__byte_perm(bytes, 0u, 0x3424u), out + 2);
}

}  // namespace nibble::cuda
