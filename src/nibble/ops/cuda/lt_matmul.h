// Products of dense matrices by cuBLASLt, which is opened when the first one is asked for.
#pragma once

#include <cstdint>

namespace nibble::cuda {

/// E2M1: two codes a byte, the first in the low nibble; strides and extents count codes.
enum class LtType : std::uint8_t { F32, BF16, E4M3, E5M2, E2M1 };

/// A row-major matrix on the device: [outer, k], or [k, outer] if `transposed`.
struct LtMatrix {
  const void* data = nullptr;
  LtType type = LtType::F32;
  std::int64_t stride = 0;  ///< elements from row to row
  bool transposed = false;
};

/// C[m, n] = beta * C[m, n] + alpha * sum_k A[m, k] * B[n, k], summed in F32.
///
/// FP8 operands are not transposed, not both E5M2, and k, n, the strides and the addresses are multiples of 16 (bytes).
/// They can have scales, F32 on the device: one for each, [m] for A and [n] for B, or (Hopper) one for 128 elements of
/// k, [k / 128, m or n rounded up to 4]. E2M1 operands (Blackwell) are not
/// transposed either, k a multiple of 32; their scales lie in tiles of 128 x 4 (ops/scale_layout.h), one for 16 (UE4M3)
/// or 32 (E8M0) elements of k.
struct LtProduct {
  enum class Scales : std::uint8_t { None, Scalar, Vector, Blocks16, Blocks32, Blocks128 };

  std::int64_t m = 0, n = 0, k = 0;
  LtMatrix a, b;
  void* c = nullptr;
  LtType c_type = LtType::F32;  ///< F32 or BF16; F32 for F32 operands
  std::int64_t c_stride = 0;
  bool add = false;  ///< beta is 1, otherwise 0
  /// What beta multiplies, laid out as C; null = C itself.
  const void* addend = nullptr;
  float alpha = 1.0f;
  /// {alpha, beta} on the device instead.
  const float* device_alpha_beta = nullptr;
  Scales scales = Scales::None;
  const void* scale_a = nullptr;
  const void* scale_b = nullptr;
  /// FP8: sums stay in the tensor cores' accumulators, which hold fewer bits than F32, over the whole contraction.
  bool fast_accumulation = false;
};

/// Computes C, or returns false when the library has no kernel for such a product on this GPU. The kernel is the
/// library's first choice for shapes, types and alignment, or one that is faster here and gave the same bits: the first
/// large product of a kind times those that the library offers. None adds in an order that varies. So equal products
/// give equal bits, whatever was measured. F32 operands are multiplied as F32 (not TF32).
bool lt_matmul(const LtProduct& product);

/// Whether the library offers a kernel for a product of these types, extents and strides, of operands and C at
/// multiples of 16 bytes; the pointers need not be set.
bool lt_offers(const LtProduct& product);

}  // namespace nibble::cuda
