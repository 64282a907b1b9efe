#include "nibble/quant/cpu/source.h"

#include <algorithm>

#include "nibble/tensor/simd.h"
#include "nibble/tensor/transpose_block.h"

namespace nibble::quant_cpu {

namespace {

NIBBLE_SIMD void load(const float* __restrict x, float fold, std::int64_t n, float* __restrict y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * fold;
}
NIBBLE_SIMD void load(const bf16* __restrict x, float fold, std::int64_t n, float* __restrict y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = bf16_decode(x[i]) * fold;
}
NIBBLE_SIMD void load_rounded(const float* __restrict x, float fold, std::int64_t n, float* __restrict y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = bf16_round(x[i]) * fold;
}
NIBBLE_SIMD void load(const float* __restrict x, float fold, const float* __restrict folds, std::int64_t n,
                      float* __restrict y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = x[i] * fold * folds[i];
}
NIBBLE_SIMD void load(const bf16* __restrict x, float fold, const float* __restrict folds, std::int64_t n,
                      float* __restrict y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = bf16_decode(x[i]) * fold * folds[i];
}
NIBBLE_SIMD void load_rounded(const float* __restrict x, float fold, const float* __restrict folds, std::int64_t n,
                              float* __restrict y) {
  for (std::int64_t i = 0; i < n; ++i) y[i] = bf16_round(x[i]) * fold * folds[i];
}
// BF16 values stay as they are.
void load_rounded(const bf16* x, float fold, std::int64_t n, float* y) { load(x, fold, n, y); }
void load_rounded(const bf16* x, float fold, const float* folds, std::int64_t n, float* y) {
  load(x, fold, folds, n, y);
}

const float* fold_data(const Tensor& fold, std::int64_t size, const char* name) {
  if (!fold.defined()) return nullptr;
  require(fold.dtype() == DType::F32 && fold.numel() == size, "{} must be F32 [{}], got {}", name, size,
          to_string(fold));
  return fold.data<float>();
}

constexpr std::int64_t kGroupBytes = 64;  // of a row of x: one cache line

}  // namespace

Source::Source(const Tensor& x, bool bf16_input, const QuantizeContext& context, bool transposed,
               const Hadamard& hadamard)
    : x_(x), round_to_bf16_(bf16_input && x.dtype() == DType::F32), transposed_(transposed) {
  require(x.dtype() == DType::F32 || x.dtype() == DType::BF16, "quantize wants F32 or BF16, got {}", to_string(x));
  row_fold_ = fold_data(context.row_fold, x.rows(), "row_fold");
  col_fold_ = fold_data(context.col_fold, x.cols(), "col_fold");
  require(!transposed || !folded(), "folds lie along the rows and columns of x: they are not for a transposed operand");
  if (hadamard.enabled()) hadamard_.emplace(hadamard, context.signs);
}

std::int64_t Source::row_group() const {
  return transposed_ ? kGroupBytes / static_cast<std::int64_t>(dtype_size(x_.dtype())) : 1;
}

template <class T>
const float* Source::finish(const T* raw, std::int64_t r, float* buffer) const {
  const std::int64_t n = cols();
  if constexpr (std::is_same_v<T, float>) {
    if (is_plain() && !transposed_) return raw;
  }
  const float fold = row_fold_ == nullptr ? 1.0f : row_fold_[r];  // a product with 1 is exact
  if (round_to_bf16_) {
    if (col_fold_ != nullptr) {
      load_rounded(raw, fold, col_fold_, n, buffer);
    } else {
      load_rounded(raw, fold, n, buffer);
    }
  } else {
    if (col_fold_ != nullptr) {
      load(raw, fold, col_fold_, n, buffer);
    } else {
      load(raw, fold, n, buffer);
    }
  }
  if (hadamard_.has_value()) hadamard_->forward(buffer, n);
  return buffer;
}

const float* Source::row(std::int64_t r, float* buffer) const {
  require(!transposed_, "rows of a transposed source are read by a RowReader");
  if (x_.dtype() == DType::BF16) return finish(x_.data<bf16>() + r * cols(), r, buffer);
  return finish(x_.data<float>() + r * cols(), r, buffer);
}

RowReader::RowReader(const Source& source) : source_(source) {
  if (!source.transposed()) return;
  // An odd number of cache lines: rows of a power of two would fall on the same few lines of the cache.
  const std::int64_t lines = (source.row_bytes() + 63) / 64 | 1;
  stride_ = 64 * lines / static_cast<std::int64_t>(dtype_size(source.x().dtype()));
  band_ = std::make_unique_for_overwrite<std::byte[]>(static_cast<std::size_t>(64 * lines * source.row_group()));
}

template <class T>
const T* RowReader::raw(std::int64_t r) {
  const T* x = source_.x_.data<T>();
  if (!source_.transposed()) return x + r * source_.cols();
  T* band = reinterpret_cast<T*>(band_.get());
  const std::int64_t width = source_.row_group();
  if (r / width != group_) {
    group_ = r / width;
    const std::int64_t first = group_ * width;
    transpose_block(x + first, source_.rows(), band, stride_, source_.cols(), std::min(width, source_.rows() - first));
  }
  return band + r % width * stride_;
}

const float* RowReader::operator()(std::int64_t r, float* buffer) {
  if (source_.x_.dtype() == DType::BF16) return source_.finish(raw<nibble::bf16>(r), r, buffer);
  return source_.finish(raw<float>(r), r, buffer);
}

const std::uint16_t* RowReader::bf16(std::int64_t r) {
  return reinterpret_cast<const std::uint16_t*>(raw<nibble::bf16>(r));
}

}  // namespace nibble::quant_cpu
