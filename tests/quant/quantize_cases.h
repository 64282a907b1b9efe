// Specs of every kind, awkward values for them, and the comparison with the reference quantiser.
#pragma once

#include <gtest/gtest.h>

#include <limits>

#include "tests/quant/quantiser.h"
#include "tests/quant/reference_quantize.h"

namespace nibble {

struct Case {
  const char* name;
  QuantSpec spec;
};

inline QuantSpec with_clamp(QuantSpec spec, double alpha, bool per_row, ResidualMode residual) {
  spec.clamp = {alpha, per_row, residual};
  return spec;
}

inline QuantSpec nvfp4(QuantSpec spec, const Nvfp4Scale& scale) {
  spec.nvfp4 = scale;
  return spec;
}
inline QuantSpec trusted(QuantSpec spec) {
  spec.trust_mask = true;
  return spec;
}
inline QuantSpec log_steps(QuantSpec spec, int steps) {
  spec.log_steps = steps;
  return spec;
}
inline QuantSpec eden_group(QuantSpec spec, std::int64_t group) {
  spec.eden_group = group;
  return spec;
}
inline const Nvfp4Scale kEdenScale = {6 / 0.988125, 255.99, 1, 0, Selection::None};

/// Every kind of element, block, rule and rounding.
inline std::vector<Case> cases() {
  using enum ElementFormat;
  using enum ScaleRule;
  using enum Rounding;
  const Granularity row = Granularity::per_row();
  const Granularity column = Granularity::per_column();
  const Granularity tensor = Granularity::per_tensor();
  const auto block = [](int r, int c) { return Granularity::block(r, c); };
  std::vector<Case> list = {
      {"row absmax even", quantiser(E2M1, row, Absmax, NearestEven)},
      {"row absmax up", quantiser(E2M1, row, Absmax, NearestUp)},
      {"row absmax zero", quantiser(E2M1, row, Absmax, NearestZero)},
      {"row absmax away", quantiser(E2M1, row, Absmax, NearestAway)},
      {"row pow2 up", quantiser(E2M1, row, AbsmaxPow2, NearestUp)},
      {"row ocp even", quantiser(E2M1, row, OcpFloor, NearestEven)},
      {"row absmax stochastic", quantiser(E2M1, row, Absmax, Stochastic)},
      {"row absmax stochastic8", quantiser(E2M1, row, Absmax, Stochastic8)},
      {"column pow2 up", quantiser(E2M1, column, AbsmaxPow2, NearestUp)},
      {"column absmax zero", quantiser(E2M1, column, Absmax, NearestZero)},
      {"column absmax stochastic", quantiser(E2M1, column, Absmax, Stochastic)},
      {"tensor absmax away", quantiser(E2M1, tensor, Absmax, NearestAway)},
      {"tensor pow2 up", quantiser(E2M1, tensor, AbsmaxPow2, NearestUp)},
      {"mxfp4 ocp", quantiser(E2M1, block(1, 32), OcpFloor, NearestEven)},
      {"mxfp4 ocp stochastic8", quantiser(E2M1, block(1, 32), OcpFloor, Stochastic8)},
      {"mxfp4 ceil6 zero", quantiser(E2M1, block(1, 32), Ceil6, NearestZero)},
      {"mxfp4 ceil6 stochastic", quantiser(E2M1, block(1, 32), Ceil6, Stochastic)},
      {"mxfp4 along columns", quantiser(E2M1, block(32, 1), Ceil6, NearestEven)},
      {"nvfp4 1x16", quantiser(E2M1, block(1, 16), Nvfp4, NearestEven)},
      {"nvfp4 1x16 stochastic8", quantiser(E2M1, block(1, 16), Nvfp4, Stochastic8)},
      {"nvfp4 16x16", quantiser(E2M1, block(16, 16), Nvfp4, NearestEven)},
      {"nvfp4 16x1", quantiser(E2M1, block(16, 1), Nvfp4, NearestEven)},
      {"nvfp4 per tensor", quantiser(E2M1, tensor, Nvfp4, NearestEven)},
      {"odd blocks", quantiser(E2M1, block(3, 5), Absmax, NearestUp)},
      {"tall blocks", quantiser(E2M1, block(100, 7), AbsmaxPow2, NearestUp)},
      {"single elements", quantiser(E2M1, block(1, 1), Absmax, NearestEven)},
      {"e4m3 row", quantiser(E4M3, row, Absmax)},
      {"e4m3 column", quantiser(E4M3, column, Absmax)},
      {"e4m3 tensor pow2", quantiser(E4M3, tensor, AbsmaxPow2)},
      {"e4m3 block 1x128", quantiser(E4M3, block(1, 128), Absmax)},
      {"e4m3 block 128x128", quantiser(E4M3, block(128, 128), Absmax)},
      {"e5m2 row", quantiser(E5M2, row, Absmax)},
      {"e5m2 tensor pow2", quantiser(E5M2, tensor, AbsmaxPow2)},
      {"bf16", quantiser(BF16, row, None)},
      {"f32", quantiser(F32, row, None)},
      {"row clamp sparse", with_clamp(quantiser(E2M1, row, Absmax, NearestUp), 0.99, true, ResidualMode::Sparse)},
      {"row clamp ceil6", with_clamp(quantiser(E2M1, row, Ceil6), 0.9, true, ResidualMode::Sparse)},
      {"row clamp dropped", with_clamp(quantiser(E2M1, row, AbsmaxPow2, NearestUp), 0.9, true, ResidualMode::None)},
      {"row clamp, blocks", with_clamp(quantiser(E2M1, block(1, 32), Ceil6), 0.97, true, ResidualMode::Sparse)},
      {"row clamp, columns", with_clamp(quantiser(E4M3, column, Absmax), 0.9, true, ResidualMode::Sparse)},
      {"row clamp, nvfp4", with_clamp(quantiser(E2M1, block(16, 16), Nvfp4), 0.9, true, ResidualMode::Sparse)},
      {"row clamp, bf16", with_clamp(quantiser(BF16, row, None), 0.9, true, ResidualMode::Sparse)},
      {"tensor clamp sparse", with_clamp(quantiser(E2M1, row, Absmax, NearestUp), 0.99, false, ResidualMode::Sparse)},
      {"tensor clamp dropped", with_clamp(quantiser(E2M1, tensor, AbsmaxPow2), 0.97, false, ResidualMode::None)},
      {"mxfp4 nearest", quantiser(E2M1, block(1, 32), Nearest6)},
      {"mxfp4 nearest, row", quantiser(E2M1, row, Nearest6, NearestAway)},
      {"mxfp4 range match", quantiser(E2M1, block(1, 32), RangeMatch34)},
      {"mxfp4 range match stochastic", quantiser(E2M1, block(1, 32), RangeMatch34, Stochastic)},
      {"mxfp4 range match, row", quantiser(E2M1, row, RangeMatch34, NearestUp)},
      {"quest floor", trusted(quantiser(E2M1, block(1, 32), QuestFloor, NearestZero))},
      {"quest nearest", quantiser(E2M1, block(1, 32), QuestNearest)},
      {"quest ceil", quantiser(E2M1, block(1, 32), QuestCeil)},
      {"quest exact", trusted(quantiser(E2M1, block(1, 32), QuestExact))},
      {"quest row", trusted(quantiser(E2M1, row, QuestNearest))},
      {"quest 16x16", quantiser(E2M1, block(16, 16), QuestFloor)},
      {"quest tensor", quantiser(E2M1, tensor, QuestExact)},
      {"quest column", trusted(quantiser(E2M1, column, QuestCeil))},
      {"quest tall", quantiser(E2M1, block(100, 20), QuestFloor)},
      {"mask without quest", trusted(quantiser(E2M1, row, Absmax, NearestUp))},
      {"mxfp8 ocp", quantiser(E4M3, block(1, 32), OcpFloor)},
      {"mxfp8 ceil", quantiser(E4M3, block(1, 32), Ceil6)},
      {"mxfp8 nearest", quantiser(E5M2, block(1, 32), Nearest6)},
      {"mxfp8 range match", quantiser(E5M2, block(1, 32), RangeMatch34)},
      {"mxfp8 e5m2 ceil", quantiser(E5M2, block(1, 32), Ceil6)},
      {"int4 row", quantiser(Int4, row, Absmax)},
      {"int4 tensor away", quantiser(Int4, tensor, AbsmaxPow2, NearestAway)},
      {"int4 column up", quantiser(Int4, column, Absmax, NearestUp)},
      {"int4 block zero", quantiser(Int4, block(1, 32), Ceil6, NearestZero)},
      {"int4 stochastic", quantiser(Int4, row, Absmax, Stochastic)},
      {"int4 sawb tensor", quantiser(Int4, tensor, Sawb)},
      {"int4 sawb row", quantiser(Int4, row, Sawb)},
      {"int4 sawb column", quantiser(Int4, column, Sawb)},
      {"int4 sawb stochastic", quantiser(Int4, block(1, 32), Sawb, Stochastic)},
      {"int4 nearest", quantiser(Int4, block(2, 16), Nearest6)},
      {"e3m0 tensor", quantiser(E3M0, tensor, Absmax)},
      {"e3m0 row up", quantiser(E3M0, row, AbsmaxPow2, NearestUp)},
      {"e3m0 zero", log_steps(quantiser(E3M0, row, Absmax, NearestZero), 4)},
      {"e3m0 stochastic", quantiser(E3M0, tensor, Absmax, Stochastic)},
      {"e3m0 stochastic, 4 steps", log_steps(quantiser(E3M0, tensor, Absmax, Stochastic), 4)},
      {"e3m0 ceil, 1 step", log_steps(quantiser(E3M0, block(1, 32), Ceil6, NearestAway), 1)},
      {"nvfp4 17/16 stochastic",
       nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Stochastic), {6.0 * 16 / 17, 448, 0, 0, {}})},
      {"nvfp4 zero scale one", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 256, 1, 0, {}})},
      {"nvfp4 double block", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Stochastic8), {6, 448, 0x1p-9, 128, {}})},
      {"nvfp4 outer 32", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 448, 0x1p-9, 32, {}})},
      {"4/6 mse", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 256, 1, 0, Selection::Mse})},
      {"4/6 mae away", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, NearestAway), {6, 256, 0, 0, Selection::Mae})},
      {"4/6 max", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 256, 0, 0, Selection::MaxAbs})},
      {"4/6 tiles", nvfp4(quantiser(E2M1, block(16, 16), Nvfp4), {6, 256, 0, 0, Selection::Mse})},
      {"4/6 tiles max", nvfp4(quantiser(E2M1, block(3, 20), Nvfp4, NearestUp), {6, 256, 1, 0, Selection::MaxAbs})},
      {"4/6 stochastic", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Stochastic), {6, 256, 1, 0, Selection::Mse})},
      {"4/6 double block", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 256, 1, 64, Selection::Mae})},
      {"eden", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Eden), kEdenScale)},
      {"eden double block", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Eden), {6 / 0.988125, 255.99, 1, 128, {}})},
      {"eden group 32", eden_group(nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Eden), kEdenScale), 32)},
      {"reference", quantiser(E2M1, row, Absmax, Reference)},
      {"reference mxfp4", quantiser(E2M1, block(1, 32), Ceil6, Reference)},
      {"row clamp, quest", with_clamp(quantiser(E2M1, block(1, 32), QuestFloor), 0.95, true, ResidualMode::Sparse)},
      {"row clamp, 4/6", with_clamp(nvfp4(quantiser(E2M1, block(16, 16), Nvfp4), {6, 256, 0, 0, Selection::Mse}), 0.95,
                                    true, ResidualMode::None)},
      {"tensor clamp, eden",
       with_clamp(nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Eden), kEdenScale), 0.95, false, ResidualMode::Sparse)},
  };
  for (std::size_t i = 0, n = list.size(); i < n; i += 3) {
    list.push_back(list[i]);
    list.back().spec.bf16_input = true;
  }
  return list;
}

/// Heavy-tailed values with zeros of both signs, exact ties and repeated values among them.
inline std::vector<float> awkward_values(std::int64_t n, std::uint64_t seed) {
  std::vector<float> x = reference::gaussian(static_cast<std::size_t>(n), seed);
  std::mt19937_64 engine(seed + 1);
  for (float& v : x) {
    switch (engine() % 16) {
      case 0: v = 0.0f; break;
      case 1: v = -0.0f; break;
      case 2: v *= 50.0f; break;
      case 3: v *= 1e-6f; break;
      case 4: v = 0.25f * static_cast<float>(static_cast<int>(engine() % 49) - 24); break;
      default: break;
    }
  }
  return x;
}

/// Rows of five values with zeros of both signs, subnormals, the largest floats and infinities, and one of ties.
inline std::vector<std::vector<float>> extreme_rows() {
  const float inf = std::numeric_limits<float>::infinity();
  const float max = std::numeric_limits<float>::max();
  return {
      {0, 0, 0, 0, 0},
      {-0.0f, 0, -0.0f, 0, 0},
      {1e-45f, -1e-45f, 0, 0, 0},
      {1e-40f, 3e-41f, 0, -1e-40f, 0},
      {1.2e-38f, -3e-39f, 0, 0, 1e-45f},
      {2.5e-38f, 1e-38f, -2e-38f, 0, 0},
      {max, -max, 1, 0, max / 2},
      {inf, 1, -1, 0, 2},
      {-inf, inf, 0, 1e-45f, max},
      {max, 1e-45f, 0, 0, 0},
      {6, 5, -5, 2.5f, 0.25f},
  };
}

inline void expect_same(const QTensor& q, const reference::Result& want) {
  ASSERT_EQ(q.rows, want.rows);
  ASSERT_EQ(q.cols, want.cols);
  ASSERT_EQ(q.tensor_scale, want.tensor_scale);
  for (std::int64_t r = 0; r < q.rows; ++r) {
    for (std::int64_t c = 0; c < q.cols; ++c) {
      const auto i = static_cast<std::size_t>(r * q.cols + c);
      if (has_scale(q.element)) {
        ASSERT_EQ(reference::code_at(q, r, c), want.codes[i]) << "row " << r << " column " << c << " y " << want.y[i];
        ASSERT_EQ(q.scale_at(r, c), want.block_scale[i] * want.outer_scale[i] * want.tensor_scale)
            << "row " << r << " column " << c;
      }
      if (q.mask.defined()) {
        ASSERT_EQ(q.mask.data<std::uint8_t>()[r * q.mask.cols() + c / 8] >> (c % 8) & 1, want.trusted[i] ? 1 : 0)
            << "row " << r << " column " << c;
      }
      ASSERT_EQ(reference::as_bits(q.value_at(r, c)), reference::as_bits(want.values[i]))
          << "row " << r << " column " << c;
    }
  }
}

inline void expect_residual(const CsrMatrix& residual, const reference::Result& want) {
  ASSERT_TRUE(residual.defined());
  std::int64_t entry = 0;
  for (std::int64_t r = 0; r < want.rows; ++r) {
    ASSERT_EQ(residual.row_begin.data<std::int32_t>()[r], entry);
    for (std::int64_t c = 0; c < want.cols; ++c) {
      const auto i = static_cast<std::size_t>(r * want.cols + c);
      const float difference = want.y[i] - want.clamped[i];
      if (difference == 0) continue;
      ASSERT_LT(entry, residual.nnz());
      ASSERT_EQ(residual.col.data<std::int32_t>()[entry], c);
      ASSERT_EQ(residual.value.data<float>()[entry], difference);
      ++entry;
    }
  }
  ASSERT_EQ(residual.nnz(), entry);
}

/// A context with everything a case can ask for; `x` gives the shape.
struct CaseContext {
  OwnedTensor reference;
  QuantizeContext context;
};

inline CaseContext case_context(const Case& c, const Tensor& x, std::uint64_t seed) {
  CaseContext result;
  result.context.random = {seed, 3, 5};
  result.context.signs = {seed, 4, 6};
  result.context.element_offset = seed % 1000;
  if (seed % 2 == 0) result.context.element_stride = static_cast<std::uint64_t>(x.cols() + x.rows()) + 48;
  if (c.spec.rounding == Rounding::Reference) {
    std::vector<float> towards = awkward_values(x.numel(), seed + 7);
    result.reference = reference::make_tensor(DType::F32, x.rows(), x.cols(), towards);
    result.context.reference = result.reference;
  }
  return result;
}

}  // namespace nibble
