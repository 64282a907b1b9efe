// Transposition of a small block in cache, 16 bytes wide.
#pragma once

#include <cstdint>
#include <cstring>

namespace nibble {

namespace detail {

typedef std::uint8_t Bytes16 __attribute__((vector_size(16)));
typedef std::uint16_t Words8 __attribute__((vector_size(16)));
typedef std::uint32_t Words4 __attribute__((vector_size(16)));

inline Bytes16 interleave_low(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Bytes16 interleave_high(Bytes16 a, Bytes16 b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31);
}
inline Words8 interleave_low(Words8 a, Words8 b) { return __builtin_shufflevector(a, b, 0, 8, 1, 9, 2, 10, 3, 11); }
inline Words8 interleave_high(Words8 a, Words8 b) { return __builtin_shufflevector(a, b, 4, 12, 5, 13, 6, 14, 7, 15); }
inline Words4 interleave_low(Words4 a, Words4 b) { return __builtin_shufflevector(a, b, 0, 4, 1, 5); }
inline Words4 interleave_high(Words4 a, Words4 b) { return __builtin_shufflevector(a, b, 2, 6, 3, 7); }

template <int kBytes>
struct VectorOf;
template <>
struct VectorOf<1> {
  using type = Bytes16;
};
template <>
struct VectorOf<2> {
  using type = Words8;
};
template <>
struct VectorOf<4> {
  using type = Words4;
};

/// An n x n square, n = 16 / sizeof(T): log2(n) rounds of interleaving row i with row i + n/2. Unrolled by order, so
/// that the square stays in registers.
template <class T>
void transpose_square(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride) {
  using Vector = typename VectorOf<sizeof(T)>::type;
  constexpr int n = 16 / sizeof(T);
  constexpr int rounds = n == 16 ? 4 : n == 8 ? 3 : 2;
  Vector x[n];
  Vector y[n];
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) std::memcpy(&x[i], from + i * from_stride, 16);
#pragma GCC unroll 4
  for (int round = 0; round < rounds; ++round) {
#pragma GCC unroll 8
    for (int i = 0; i < n / 2; ++i) {
      y[2 * i] = interleave_low(x[i], x[i + n / 2]);
      y[2 * i + 1] = interleave_high(x[i], x[i + n / 2]);
    }
#pragma GCC unroll 16
    for (int i = 0; i < n; ++i) x[i] = y[i];
  }
#pragma GCC unroll 16
  for (int i = 0; i < n; ++i) std::memcpy(static_cast<void*>(to + i * to_stride), &x[i], 16);
}

}  // namespace detail

/// to[c, r] = from[r, c] for r < rows, c < cols; strides in elements; T of 1, 2 or 4 bytes.
template <class T>
void transpose_block(const T* from, std::int64_t from_stride, T* to, std::int64_t to_stride, std::int64_t rows,
                     std::int64_t cols) {
  constexpr std::int64_t n = 16 / sizeof(T);
  const std::int64_t square_rows = rows / n * n;
  const std::int64_t square_cols = cols / n * n;
  for (std::int64_t c = 0; c < square_cols; c += n) {
    for (std::int64_t r = 0; r < square_rows; r += n) {
      detail::transpose_square(from + r * from_stride + c, from_stride, to + c * to_stride + r, to_stride);
    }
  }
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = r < square_rows ? square_cols : 0; c < cols; ++c) {
      to[c * to_stride + r] = from[r * from_stride + c];
    }
  }
}

}  // namespace nibble
