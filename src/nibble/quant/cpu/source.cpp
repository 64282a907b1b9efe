#include "nibble/quant/cpu/source.h"

#include "nibble/tensor/simd.h"

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

const float* fold_data(const Tensor& fold, std::int64_t size, const char* name) {
  if (!fold.defined()) return nullptr;
  require(fold.dtype() == DType::F32 && fold.numel() == size, "{} must be F32 [{}], got {}", name, size,
          to_string(fold));
  return fold.data<float>();
}

}  // namespace

Source::Source(const Tensor& x, bool bf16_input, const QuantizeContext& context)
    : x_(x), round_to_bf16_(bf16_input && x.dtype() == DType::F32) {
  require(x.dtype() == DType::F32 || x.dtype() == DType::BF16, "quantize wants F32 or BF16, got {}", to_string(x));
  row_fold_ = fold_data(context.row_fold, x.rows(), "row_fold");
  col_fold_ = fold_data(context.col_fold, x.cols(), "col_fold");
}

const float* Source::row(std::int64_t r, float* buffer) const {
  const std::int64_t n = cols();
  const float fold = row_fold_ == nullptr ? 1.0f : row_fold_[r];  // a product with 1 is exact
  if (x_.dtype() == DType::BF16) {
    const bf16* x = x_.data<bf16>() + r * n;
    if (col_fold_ != nullptr) {
      load(x, fold, col_fold_, n, buffer);
    } else {
      load(x, fold, n, buffer);
    }
    return buffer;
  }
  const float* x = x_.data<float>() + r * n;
  if (!round_to_bf16_ && !folded()) return x;
  if (round_to_bf16_) {
    if (col_fold_ != nullptr) {
      load_rounded(x, fold, col_fold_, n, buffer);
    } else {
      load_rounded(x, fold, n, buffer);
    }
  } else {
    if (col_fold_ != nullptr) {
      load(x, fold, col_fold_, n, buffer);
    } else {
      load(x, fold, n, buffer);
    }
  }
  return buffer;
}

const std::uint16_t* Source::bf16_row(std::int64_t r) const {
  return reinterpret_cast<const std::uint16_t*>(x_.data<bf16>()) + r * cols();
}

}  // namespace nibble::quant_cpu
