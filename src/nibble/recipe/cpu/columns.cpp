#include "nibble/recipe/columns.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "nibble/recipe/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {

namespace {

/// Rows of `x` in parallel: f(x's row r, r).
template <class T, class F>
void for_each_row(const Tensor& x, F&& f) {
  const std::int64_t cols = x.cols();
  T* data = x.data<T>();
  parallel_for(x.rows(), rows_per_chunk(cols * static_cast<std::int64_t>(sizeof(T))),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t r = begin; r < end; ++r) f(data + r * cols, r);
               });
}

NIBBLE_SIMD void add_squares(const float* x, double* sums, std::int64_t n) {
  for (std::int64_t c = 0; c < n; ++c) sums[c] += static_cast<double>(x[c]) * static_cast<double>(x[c]);
}
NIBBLE_SIMD void add_squares(const bf16* x, double* sums, std::int64_t n) {
  for (std::int64_t c = 0; c < n; ++c) {
    const double v = bf16_decode(x[c]);
    sums[c] += v * v;
  }
}

constexpr std::int64_t kStrip = 512;  // columns of a strip: their sums stay in L1

}  // namespace

void gather_columns(const Tensor& x, const Tensor& columns, const Tensor& out) {
  const std::int64_t m = columns.numel();
  require(x.dtype() == out.dtype() && out.rows() == x.rows() && out.cols() == m, "gather_columns of {} into {}",
          to_string(x), to_string(out));
  const std::int32_t* column = columns.data<std::int32_t>();
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    T* to = out.data<T>();
    for_each_row<T>(x, [&](const T* row, std::int64_t r) {
      for (std::int64_t j = 0; j < m; ++j) to[r * m + j] = row[column[j]];
    });
  });
}

void scatter_columns(const Tensor& part, const Tensor& columns, const Tensor& to, Accumulate accumulate) {
  const std::int64_t m = columns.numel();
  require(part.rows() == to.rows() && part.cols() == m, "scatter_columns of {} into {}", to_string(part),
          to_string(to));
  const std::int32_t* column = columns.data<std::int32_t>();
  const float* from = part.data<float>();
  const bool add = accumulate == Accumulate::Add;
  dispatch_float(to.dtype(), [&]<class T>(T*) {
    for_each_row<T>(to, [&](T* row, std::int64_t r) {
      for (std::int64_t j = 0; j < m; ++j) {
        T& element = row[column[j]];
        element = from_float<T>(add ? to_float(element) + from[r * m + j] : from[r * m + j]);
      }
    });
  });
}

void zero_columns(const Tensor& x, const Tensor& columns) {
  const std::int64_t m = columns.numel();
  const std::int32_t* column = columns.data<std::int32_t>();
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    for_each_row<T>(x, [&](T* row, std::int64_t) {
      for (std::int64_t j = 0; j < m; ++j) row[column[j]] = from_float<T>(0.0f);
    });
  });
}

void add_column_squares(const Tensor& x, const Tensor& sums) {
  const std::int64_t cols = x.cols();
  require(sums.numel() == cols, "add_column_squares of {} to {}", to_string(x), to_string(sums));
  float* to = sums.data<float>();
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    const T* data = x.data<T>();
    parallel_for(cols, kStrip, [&](std::int64_t begin, std::int64_t end) {
      std::vector<double> strip(static_cast<std::size_t>(end - begin));
      for (std::int64_t r = 0; r < x.rows(); ++r) add_squares(data + r * cols + begin, strip.data(), end - begin);
      for (std::int64_t c = begin; c < end; ++c) {
        to[c] = static_cast<float>(static_cast<double>(to[c]) + strip[static_cast<std::size_t>(c - begin)]);
      }
    });
  });
}

void hiding_factors(const Tensor& columns, const Tensor& factors) {
  float* factor = factors.data<float>();
  std::fill_n(factor, factors.numel(), 1.0f);
  const std::int32_t* column = columns.data<std::int32_t>();
  for (std::int64_t j = 0; j < columns.numel(); ++j) factor[column[j]] = 0;
}

void place_columns(const Tensor& from, const Tensor& to, std::int64_t first) {
  const auto size = static_cast<std::int64_t>(dtype_size(to.dtype()));
  const std::int64_t width = size * std::min(from.cols(), to.cols() - first);
  const std::int64_t from_row = size * from.cols();
  const std::int64_t to_row = size * to.cols();
  parallel_for(to.rows(), rows_per_chunk(to_row), [&](std::int64_t begin, std::int64_t end) {
    for (std::int64_t r = begin; r < end; ++r) {
      std::memcpy(static_cast<std::byte*>(to.raw()) + r * to_row + size * first,
                  static_cast<const std::byte*>(from.raw()) + r * from_row, static_cast<std::size_t>(width));
    }
  });
}

void first_columns(const Tensor& x, const Tensor& out) {
  require(x.dtype() == out.dtype() && x.rows() == out.rows() && out.cols() <= x.cols(), "first_columns of {} into {}",
          to_string(x), to_string(out));
  const std::size_t from_row = static_cast<std::size_t>(x.cols()) * dtype_size(x.dtype());
  const std::size_t to_row = static_cast<std::size_t>(out.cols()) * dtype_size(x.dtype());
  for (std::size_t r = 0; r < static_cast<std::size_t>(out.rows()); ++r) {
    std::memcpy(static_cast<std::byte*>(out.raw()) + r * to_row, static_cast<const std::byte*>(x.raw()) + r * from_row,
                to_row);
  }
}

}  // namespace nibble::cpu
