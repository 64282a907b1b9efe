#include "nibble/ops/cpu/gemm_epilogue.h"

#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

NIBBLE_SIMD void scale_row(const std::int32_t* sums, const std::int32_t* compensation, float unit, float scale_a,
                           const float* scale_b, float* out, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::uint32_t sum = static_cast<std::uint32_t>(sums[i]) - static_cast<std::uint32_t>(compensation[i]);
    out[i] = (static_cast<float>(static_cast<std::int32_t>(sum)) * unit * scale_a) * scale_b[i];
  }
}

NIBBLE_SIMD void scale_row(const float* sums, float unit, float scale_a, const float* scale_b, float* out,
                           std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = (sums[i] * unit * scale_a) * scale_b[i];
}

NIBBLE_SIMD void add_row(const float* x, float* c, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) c[i] = c[i] + x[i];
}

NIBBLE_SIMD void store_row(const float* x, bf16* c, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) c[i] = bf16_encode(x[i]);
}

NIBBLE_SIMD void add_row(const float* x, bf16* c, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) c[i] = bf16_encode(bf16_decode(c[i]) + x[i]);
}

void scale_any(const Epilogue& e, const std::int32_t* sums, std::int64_t m, std::int64_t n, float* out,
               std::int64_t cols) {
  scale_row(sums, e.compensation + n, e.unit, e.scale_a[m], e.scale_b + n, out, cols);
}
void scale_any(const Epilogue& e, const float* sums, std::int64_t m, std::int64_t n, float* out, std::int64_t cols) {
  scale_row(sums, e.unit, e.scale_a[m], e.scale_b + n, out, cols);
}

template <class Sum>
void store(const Epilogue& e, const Sum* sums, std::int64_t stride, std::int64_t m, std::int64_t n, std::int64_t rows,
           std::int64_t cols) {
  const bool add = e.accumulate == Accumulate::Add;
  const std::int64_t c_stride = e.c.cols();
  alignas(64) float scaled[kMaxTileCols];
  if (e.c.dtype() == DType::F32) {
    float* c = e.c.data<float>() + m * c_stride + n;
    for (std::int64_t r = 0; r < rows; ++r, sums += stride, c += c_stride) {
      scale_any(e, sums, m + r, n, add ? scaled : c, cols);
      if (add) add_row(scaled, c, cols);
    }
  } else {
    bf16* c = e.c.data<bf16>() + m * c_stride + n;
    for (std::int64_t r = 0; r < rows; ++r, sums += stride, c += c_stride) {
      scale_any(e, sums, m + r, n, scaled, cols);
      add ? add_row(scaled, c, cols) : store_row(scaled, c, cols);
    }
  }
}

}  // namespace

void store_tile(const Epilogue& epilogue, const std::int32_t* sums, std::int64_t stride, std::int64_t m, std::int64_t n,
                std::int64_t rows, std::int64_t cols) {
  store(epilogue, sums, stride, m, n, rows, cols);
}
void store_tile(const Epilogue& epilogue, const float* sums, std::int64_t stride, std::int64_t m, std::int64_t n,
                std::int64_t rows, std::int64_t cols) {
  store(epilogue, sums, stride, m, n, rows, cols);
}

}  // namespace nibble::cpu
