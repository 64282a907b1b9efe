#include <algorithm>
#include <cstring>

#include "nibble/ops/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"
#include "nibble/tensor/transpose_block.h"

namespace nibble::cpu {
namespace {

/// Columns of a dense row that are summed in registers: four AVX-512 or eight AVX2 vectors, whole cache lines.
constexpr std::int64_t kWidth = 64;

/// Entries of one row, with their columns, or of one column, with their rows.
struct Entries {
  const std::int32_t* index;
  const float* value;
  std::int64_t count;
};

Entries entries_of_row(const CsrMatrix& m, std::int64_t row) {
  const std::int32_t* begin = m.row_begin.data<std::int32_t>() + row;
  return {m.col.data<std::int32_t>() + begin[0], m.value.data<float>() + begin[0], begin[1] - begin[0]};
}

/// Sixteen floats as one value, so that the sums of a row stay in registers; the compiler cuts it into what the CPU
/// has.
typedef float Floats __attribute__((vector_size(64)));
typedef std::uint32_t Words __attribute__((vector_size(64)));

template <class Vector>
[[gnu::always_inline]] inline void load(const void* from, Vector& x) {
  std::memcpy(&x, from, sizeof(x));
}

/// sum[j] = sum over entries of value * w[index * stride + j], j < kWidth.
NIBBLE_SIMD void gather_sum(const Entries& e, const float* w, std::int64_t stride, float* sum) {
  Floats s0 = {}, s1 = {}, s2 = {}, s3 = {};
  Floats x0, x1, x2, x3;
  for (std::int64_t i = 0; i < e.count; ++i) {
    const float* row = w + e.index[i] * stride;
    load(row, x0);
    load(row + 16, x1);
    load(row + 32, x2);
    load(row + 48, x3);
    s0 += e.value[i] * x0;
    s1 += e.value[i] * x1;
    s2 += e.value[i] * x2;
    s3 += e.value[i] * x3;
  }
  std::memcpy(sum, &s0, sizeof(s0));
  std::memcpy(sum + 16, &s1, sizeof(s1));
  std::memcpy(sum + 32, &s2, sizeof(s2));
  std::memcpy(sum + 48, &s3, sizeof(s3));
}

/// Two BF16 values share a 32-bit word; the even columns and the odd ones are summed apart and merged at the end, which
/// spares the widening of every vector.
NIBBLE_SIMD void gather_sum(const Entries& e, const bf16* w, std::int64_t stride, float* sum) {
  Floats even0 = {}, even1 = {}, odd0 = {}, odd1 = {};
  Words x0, x1;
  Floats x;
  for (std::int64_t i = 0; i < e.count; ++i) {
    const bf16* row = w + e.index[i] * stride;
    load(row, x0);
    load(row + 32, x1);
    const Words words[4] = {x0 << 16, x0 & 0xFFFF'0000u, x1 << 16, x1 & 0xFFFF'0000u};
    load(&words[0], x);
    even0 += e.value[i] * x;
    load(&words[1], x);
    odd0 += e.value[i] * x;
    load(&words[2], x);
    even1 += e.value[i] * x;
    load(&words[3], x);
    odd1 += e.value[i] * x;
  }
  for (int j = 0; j < 16; ++j) {
    sum[2 * j] = even0[j];
    sum[2 * j + 1] = odd0[j];
    sum[32 + 2 * j] = even1[j];
    sum[32 + 2 * j + 1] = odd1[j];
  }
}

/// The same for the first n columns.
template <class W>
void gather_sum(const Entries& e, const W* w, std::int64_t stride, float* sum, std::int64_t n) {
  if (n == kWidth) return gather_sum(e, w, stride, sum);
  std::fill_n(sum, n, 0.0f);
  for (std::int64_t i = 0; i < e.count; ++i) {
    const W* row = w + e.index[i] * stride;
    for (std::int64_t j = 0; j < n; ++j) sum[j] += e.value[i] * to_float(row[j]);
  }
}

NIBBLE_SIMD void add_row(const float* x, float* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = y[i] + x[i];
}
NIBBLE_SIMD void add_row(const float* x, bf16* y, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = bf16_encode(bf16_decode(y[i]) + x[i]);
}

template <class W, class Y>
void fprop(const CsrMatrix& residual, const W* w, Y* y, std::int64_t n) {
  // Whole rows of Y: blocks of columns, with their part of W^T in L2, measured slower, because Y is then walked in
  // pieces that the hardware does not prefetch.
  parallel_for(residual.rows, rows_per_chunk(n * static_cast<std::int64_t>(sizeof(Y))),
               [&](std::int64_t begin, std::int64_t end) {
                 alignas(64) float sum[kWidth];
                 for (std::int64_t t = begin; t < end; ++t) {
                   const Entries e = entries_of_row(residual, t);
                   if (e.count == 0) continue;
                   for (std::int64_t j = 0; j < n; j += kWidth) {
                     const std::int64_t width = std::min(kWidth, n - j);
                     gather_sum(e, w + j, n, sum, width);
                     add_row(sum, y + t * n + j, width);
                   }
                 }
               });
}

/// The entries by column: those of column c are [begin[c], begin[c + 1]), rows ascending.
struct Columns {
  const std::int32_t* begin;
  const std::int32_t* row;
  const float* value;

  Entries entries(std::int64_t c) const { return {row + begin[c], value + begin[c], begin[c + 1] - begin[c]}; }
};

/// A counting sort by column. Each run of rows counts its entries and, once it knows where they start in every column,
/// places them.
Columns by_column(const CsrMatrix& m, Arena& scratch) {
  constexpr std::int64_t kRuns = 16;
  const std::int64_t rows_per_run = std::max<std::int64_t>(1, (m.rows + kRuns - 1) / kRuns);
  const std::int32_t* row_begin = m.row_begin.data<std::int32_t>();
  const std::int32_t* col = m.col.data<std::int32_t>();
  const float* value = m.value.data<float>();
  std::int32_t* next = scratch.allocate(DType::I32, {kRuns, m.cols}).data<std::int32_t>();
  std::int32_t* begin = scratch.allocate(DType::I32, {m.cols + 1}).data<std::int32_t>();
  std::int32_t* sorted_row = scratch.allocate(DType::I32, {m.nnz()}).data<std::int32_t>();
  float* sorted_value = scratch.allocate(DType::F32, {m.nnz()}).data<float>();

  std::fill_n(next, kRuns * m.cols, 0);
  parallel_for(m.rows, rows_per_run, [&](std::int64_t first, std::int64_t last) {
    std::int32_t* count = next + first / rows_per_run * m.cols;
    for (std::int32_t i = row_begin[first]; i < row_begin[last]; ++i) ++count[col[i]];
  });
  std::int32_t total = 0;
  for (std::int64_t c = 0; c < m.cols; ++c) {
    begin[c] = total;
    for (std::int64_t run = 0; run < kRuns; ++run) {
      std::int32_t& n = next[run * m.cols + c];
      total += n;
      n = total - n;
    }
  }
  begin[m.cols] = total;
  parallel_for(m.rows, rows_per_run, [&](std::int64_t first, std::int64_t last) {
    std::int32_t* place = next + first / rows_per_run * m.cols;
    for (std::int64_t r = first; r < last; ++r) {
      for (std::int32_t i = row_begin[r]; i < row_begin[r + 1]; ++i) {
        const std::int32_t p = place[col[i]]++;
        sorted_row[p] = static_cast<std::int32_t>(r);
        sorted_value[p] = value[i];
      }
    }
  });
  return {begin, sorted_row, sorted_value};
}

template <class Dy>
void wgrad(const CsrMatrix& residual, const Dy* dy, float* dw, std::int64_t n, Arena& scratch) {
  // A task owns a square of dW, kWidth rows (columns of dY) by kWidth columns (columns of the residual). It computes
  // the square's transpose a row at a time, from rows of dY in ascending order. Squares that read the same columns of
  // dY, T x 64 elements, follow each other, so that these stay in L2.
  const std::int64_t k = residual.cols;
  const std::int64_t col_blocks = (k + kWidth - 1) / kWidth;
  const std::int64_t row_blocks = (n + kWidth - 1) / kWidth;
  const ArenaScope scope(scratch);
  const Columns columns = by_column(residual, scratch);
  parallel_for(row_blocks * col_blocks, 1, [&](std::int64_t begin, std::int64_t end) {
    alignas(64) float sums[kWidth * kWidth];
    alignas(64) float square[kWidth * kWidth];
    for (std::int64_t task = begin; task < end; ++task) {
      const std::int64_t col = task % col_blocks * kWidth;
      const std::int64_t row = task / col_blocks * kWidth;
      const std::int64_t cols = std::min(kWidth, k - col);
      const std::int64_t rows = std::min(kWidth, n - row);
      for (std::int64_t c = 0; c < cols; ++c) {
        gather_sum(columns.entries(col + c), dy + row, n, sums + c * kWidth, rows);
      }
      transpose_block(sums, kWidth, square, kWidth, cols, rows);
      for (std::int64_t r = 0; r < rows; ++r) add_row(square + r * kWidth, dw + (row + r) * k + col, cols);
    }
  });
}

}  // namespace

void spmm_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y, Arena&) {
  dispatch_float(w_transposed.dtype(), [&](auto* w) {
    dispatch_float(y.dtype(), [&](auto* out) {
      using W = std::remove_pointer_t<decltype(w)>;
      using Y = std::remove_pointer_t<decltype(out)>;
      fprop(residual, w_transposed.data<W>(), y.data<Y>(), y.dim(1));
    });
  });
}

void spmm_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch) {
  if (residual.nnz() == 0) return;
  dispatch_float(dy.dtype(), [&](auto* p) {
    using Dy = std::remove_pointer_t<decltype(p)>;
    wgrad(residual, dy.data<Dy>(), dw.data<float>(), dw.dim(0), scratch);
  });
}

}  // namespace nibble::cpu
