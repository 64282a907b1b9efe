#include "nibble/quant/cpu/residual.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "nibble/tensor/parallel.h"

namespace nibble::quant_cpu {

ResidualRows::ResidualRows(std::int64_t rows, std::int64_t cols, std::int64_t capacity, Arena& arena)
    : count_(static_cast<std::size_t>(rows), 0) {
  require(capacity <= std::numeric_limits<std::int32_t>::max() && cols <= std::numeric_limits<std::int32_t>::max(),
          "a residual of up to {} entries does not fit 32-bit indices", capacity);
  residual_.rows = rows;
  residual_.cols = cols;
  residual_.row_begin = arena.allocate(DType::I32, {rows + 1});
  residual_.col = arena.allocate(DType::I32, {capacity});
  residual_.value = arena.allocate(DType::F32, {capacity});
}

void ResidualRows::open(std::int64_t per_row, Arena& scratch) {
  if (!enabled()) return;
  per_row_ = per_row;
  slot_col_ = scratch.allocate(DType::I32, {residual_.rows, per_row});
  slot_value_ = scratch.allocate(DType::F32, {residual_.rows, per_row});
}

namespace {

/// The positions of the set bits. A word of a clamped row has one or two of them, at random: four are taken always
/// and only set bits counted, which spares a mispredicted branch a word. `found` needs room for one number more.
std::int64_t find_bits(const std::uint64_t* words, std::int64_t n, std::int32_t* found) {
  std::int64_t count = 0;
  for (std::int64_t w = 0; w < n; ++w) {
    std::uint64_t bits = words[w];
    do {
      for (int k = 0; k < 4; ++k) {
        found[count] = static_cast<std::int32_t>(64 * w + std::countr_zero(bits));
        count += bits != 0 ? 1 : 0;
        bits &= bits - 1;
      }
    } while (bits != 0);
  }
  return count;
}

}  // namespace

template <class Difference>
void ResidualRows::write_row(std::int64_t r, const std::uint64_t* outside, std::int32_t* found, Difference difference) {
  std::int32_t* col = slot_col_.data<std::int32_t>() + r * per_row_;
  float* value = slot_value_.data<float>() + r * per_row_;
  const std::int64_t candidates = find_bits(outside, (residual_.cols + 63) / 64, found);
  std::int32_t count = 0;
  for (std::int64_t i = 0; i < candidates; ++i) {
    const float d = difference(found[i]);
    col[count] = found[i];
    value[count] = d;
    count += d != 0 ? 1 : 0;
  }
  count_[static_cast<std::size_t>(r)] = count;
}

void ResidualRows::write(std::int64_t r, const float* y, const float* clamped, const std::uint64_t* outside,
                         std::int32_t* found) {
  write_row(r, outside, found, [=](std::int64_t c) { return y[c] - clamped[c]; });
}

void ResidualRows::write(std::int64_t r, const std::uint16_t* y, const std::uint16_t* clamped,
                         const std::uint64_t* outside, std::int32_t* found) {
  write_row(r, outside, found, [=](std::int64_t c) { return bf16_decode({y[c]}) - bf16_decode({clamped[c]}); });
}

CsrMatrix ResidualRows::finish() {
  if (!enabled()) return residual_;
  std::int32_t* begin = residual_.row_begin.data<std::int32_t>();
  begin[0] = 0;
  for (std::int64_t r = 0; r < residual_.rows; ++r) begin[r + 1] = begin[r] + count_[static_cast<std::size_t>(r)];
  parallel_for(residual_.rows, rows_per_chunk(8 * per_row_), [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t r = first; r < last; ++r) {
      const auto count = static_cast<std::size_t>(count_[static_cast<std::size_t>(r)]);
      std::copy_n(slot_col_.data<std::int32_t>() + r * per_row_, count, residual_.col.data<std::int32_t>() + begin[r]);
      std::copy_n(slot_value_.data<float>() + r * per_row_, count, residual_.value.data<float>() + begin[r]);
    }
  });
  return residual_;
}

}  // namespace nibble::quant_cpu
