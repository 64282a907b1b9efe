// One linear layer with seeded operands, and double-precision products to hold it against.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "nibble/recipe/linear.h"

namespace nibble::testing {

struct Shape {
  std::int64_t tokens = 37;
  std::int64_t in = 130;  // more than one outlier a row at alpha = 0.99
  std::int64_t out = 53;
};

using Matrix = std::vector<double>;

inline Matrix values(const Tensor& t) {
  Matrix m(static_cast<std::size_t>(t.numel()));
  for (std::size_t i = 0; i < m.size(); ++i) {
    m[i] = t.dtype() == DType::F32 ? static_cast<double>(t.data<float>()[i])
                                   : static_cast<double>(bf16_decode(t.data<bf16>()[i]));
  }
  return m;
}

inline Matrix stored(const QTensor& q) {
  Matrix m;
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; ++c) m.push_back(static_cast<double>(q.value_at(r, c)));
  }
  return m;
}

inline Matrix transposed(const Matrix& m, std::int64_t rows, std::int64_t cols) {
  Matrix t(m.size());
  for (std::int64_t r = 0; r < rows; ++r) {
    for (std::int64_t c = 0; c < cols; ++c) {
      t[static_cast<std::size_t>(c * rows + r)] = m[static_cast<std::size_t>(r * cols + c)];
    }
  }
  return t;
}

/// Largest |a - b| over the largest |b|.
inline double error(const Matrix& a, const Matrix& b) {
  double worst = 0;
  double scale = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    worst = std::max(worst, std::abs(a[i] - b[i]));
    scale = std::max(scale, std::abs(b[i]));
  }
  return worst / scale;
}
inline double error(const Tensor& a, const Matrix& b) { return error(values(a), b); }

/// |a - b| / |b| in the Euclidean norm.
inline double distance(const Matrix& a, const Matrix& b) {
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < b.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += b[i] * b[i];
  }
  return std::sqrt(difference / norm);
}

/// sum_k a[m, k] b[n, k] with strides: element (m, k) of a is a[m * am + k * ak].
inline Matrix product(const Matrix& a, std::int64_t am, std::int64_t ak, const Matrix& b, std::int64_t bn,
                      std::int64_t bk, std::int64_t m, std::int64_t n, std::int64_t k) {
  Matrix c(static_cast<std::size_t>(m * n));
  for (std::int64_t i = 0; i < m; ++i) {
    for (std::int64_t j = 0; j < n; ++j) {
      double sum = 0;
      for (std::int64_t l = 0; l < k; ++l) {
        sum += a[static_cast<std::size_t>(i * am + l * ak)] * b[static_cast<std::size_t>(j * bn + l * bk)];
      }
      c[static_cast<std::size_t>(i * n + j)] = sum;
    }
  }
  return c;
}

inline Matrix rounded_to_bf16(const Tensor& t) {
  Matrix m = values(t);
  for (double& v : m) v = static_cast<double>(bf16_round(static_cast<float>(v)));
  return m;
}

inline Matrix dense(const CsrMatrix& csr) {
  Matrix m(static_cast<std::size_t>(csr.rows * csr.cols));
  for (std::int64_t r = 0; r < csr.rows; ++r) {
    for (std::int32_t e = csr.row_begin.data<std::int32_t>()[r]; e < csr.row_begin.data<std::int32_t>()[r + 1]; ++e) {
      m[static_cast<std::size_t>(r * csr.cols + csr.col.data<std::int32_t>()[e])] =
          static_cast<double>(csr.value.data<float>()[e]);
    }
  }
  return m;
}

/// A recipe whose only stage runs `linear` everywhere.
inline Recipe recipe_of(const LinearRecipe& linear) {
  Recipe recipe = unquantised_recipe(ElementFormat::BF16);
  recipe.stages.front().linear.assign(1, linear);
  return recipe;
}

/// A layer with its operands; `run` takes it through one step.
struct Layer {
  Shape shape;
  Arena arena{Device::Cpu, 4 << 20}, weights{Device::Cpu, 1 << 20}, scratch{Device::Cpu, 1 << 20};
  OwnedTensor x, w, dy, y, dx, dw;
  Recipe recipe;
  Linear linear;
  PassContext pass{.arena = arena, .seed = 7, .step = 3};
  Linear::Saved saved;

  /// One value of X in 131 is `outliers` times as large.
  explicit Layer(Recipe r, Shape s = {}, DType activations = DType::BF16, float outliers = 20)
      : shape(s),
        x(activations, {s.tokens, s.in}),
        w(DType::F32, {s.out, s.in}),
        dy(activations, {s.tokens, s.out}),
        y(DType::F32, {s.tokens, s.out}),
        dx(DType::F32, {s.tokens, s.in}),
        dw(DType::F32, {s.out, s.in}),
        recipe(std::move(r)),
        linear("layers.0.mlp.down", 0, recipe, 0, 1) {
    std::mt19937 rng(1);
    std::normal_distribution<float> normal;
    const auto fill = [&](const Tensor& t, auto&& value) {
      OwnedTensor f(DType::F32, {t.rows(), t.cols()});
      for (std::int64_t i = 0; i < t.numel(); ++i) f.view().data<float>()[i] = value(i);
      convert(f, t);
    };
    fill(x, [&](std::int64_t i) { return normal(rng) * (i % 131 == 0 ? outliers : 1.0f); });
    fill(w, [&](std::int64_t) { return 0.05f * normal(rng); });
    fill(dy, [&](std::int64_t) { return 1e-3f * normal(rng); });
  }

  void prepare() { linear.prepare(w, pass.seed, pass.step, weights, scratch, pass.measure_quality); }
  void forward() { saved = linear.forward(x, y, {}, pass); }
  void backward() { linear.backward(dy, saved, dx, dw, pass); }
  Layer& run() {
    prepare();
    forward();
    backward();
    return *this;
  }

  Matrix fprop(const Matrix& a, const Matrix& b) const {
    return product(a, shape.in, 1, b, shape.in, 1, shape.tokens, shape.out, shape.in);
  }
  Matrix dgrad(const Matrix& a, const Matrix& b) const {
    return product(a, shape.out, 1, b, 1, shape.in, shape.tokens, shape.in, shape.out);
  }
  Matrix wgrad(const Matrix& a, const Matrix& b) const {
    return product(a, 1, shape.out, b, 1, shape.in, shape.out, shape.in, shape.tokens);
  }
  QTensor quantised(Operand o, const Tensor& t, Tensor row_fold = {}, Tensor col_fold = {}) {
    QuantizeContext context;
    context.row_fold = row_fold;
    context.col_fold = col_fold;
    return quantize(t, linear.recipe()[o].quant, context, arena);
  }
};

// Specs of the published formats.

inline QuantSpec nvfp4(Rounding rounding = Rounding::NearestEven, bool transposed = false) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::block(1, 16);
  spec.scale = ScaleRule::Nvfp4;
  spec.nvfp4.val_max = is_stochastic(rounding) ? 6.0 * 16 / 17 : 6.0;
  spec.rounding = rounding;
  spec.transposed = transposed;
  return spec;
}
inline QuantSpec mxfp4(ScaleRule scale, Rounding rounding = Rounding::NearestEven, bool transposed = false) {
  QuantSpec spec;
  spec.element = ElementFormat::E2M1;
  spec.granularity = Granularity::block(1, 32);
  spec.scale = scale;
  spec.rounding = rounding;
  spec.transposed = transposed;
  return spec;
}
inline QuantSpec mxfp8(bool transposed = false) {
  QuantSpec spec = mxfp4(ScaleRule::Ceil6, Rounding::NearestEven, transposed);
  spec.element = ElementFormat::E4M3;
  return spec;
}
inline QuantSpec unquantised(ElementFormat element, bool transposed = false) {
  QuantSpec spec;
  spec.element = element;
  spec.transposed = transposed;
  return spec;
}
inline QuantSpec rotated(QuantSpec spec, std::int64_t group, Hadamard::Signs signs) {
  spec.hadamard = {group, signs, false};
  return spec;
}

}  // namespace nibble::testing
