// What is stored by fprop, and what backward operands are made of it.
#pragma once

#include "nibble/quant/requantize.h"
#include "tests/quant/quantize_cases.h"

namespace nibble {

inline QuantSpec rotated(QuantSpec spec, std::int64_t group, Hadamard::Signs signs, bool signs_last = false) {
  spec.hadamard = {group, signs, signs_last};
  return spec;
}

/// Stored so that a GPU reads the codes where they lie.
inline std::vector<Case> stored_cases() {
  using enum ElementFormat;
  using enum ScaleRule;
  using enum Rounding;
  const auto block = [](int r, int c) { return Granularity::block(r, c); };
  const Granularity row = Granularity::per_row();
  return {
      {"4/6", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 256, 1, 0, Selection::Mse})},
      {"quest", trusted(quantiser(E2M1, block(1, 32), QuestFloor, NearestZero))},
      {"ceil6", quantiser(E2M1, block(1, 32), Ceil6)},
      {"range match", quantiser(E2M1, block(1, 32), RangeMatch34)},
      {"nvfp4 outer 128", nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 448, 0x1p-9, 128, {}})},
      {"nvfp4 tiles", quantiser(E2M1, block(16, 16), Nvfp4)},
      {"row clamp", with_clamp(quantiser(E2M1, row, Absmax, NearestUp), 0.95, true, ResidualMode::Sparse)},
      {"tensor", quantiser(E2M1, Granularity::per_tensor(), AbsmaxPow2)},
      {"blocks of 48", quantiser(E2M1, block(5, 48), Absmax)},
  };
}

/// Stored so that values are written out first.
inline std::vector<Case> other_stored_cases() {
  using enum ElementFormat;
  using enum ScaleRule;
  const auto block = [](int r, int c) { return Granularity::block(r, c); };
  return {
      {"columns", quantiser(E2M1, Granularity::per_column(), Absmax)},
      {"blocks of 8", quantiser(E2M1, block(1, 8), Absmax)},
      {"nvfp4 outer 24", nvfp4(quantiser(E2M1, block(1, 8), Nvfp4), {6, 448, 0x1p-9, 24, {}})},
      {"e4m3", quantiser(E4M3, block(1, 32), Ceil6)},
      {"int4", quantiser(Int4, block(1, 32), Ceil6)},
      {"bf16", quantiser(BF16, Granularity::per_row(), None)},
  };
}

/// Transposed, with blocks that a GPU reads codes for. The first four are those of the recipes.
inline std::vector<Case> again_cases() {
  using enum ElementFormat;
  using enum ScaleRule;
  using enum Rounding;
  using enum Hadamard::Signs;
  const auto block = [](int r, int c) { return Granularity::block(r, c); };
  const QuantSpec eden = nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Eden), kEdenScale);
  std::vector<Case> list = {
      {"eden", rotated(eden, 128, Call)},
      {"range match", rotated(quantiser(E2M1, block(1, 32), RangeMatch34, Stochastic), 32, Call)},
      {"ceil6", quantiser(E2M1, block(1, 32), Ceil6, Stochastic)},
      {"nvfp4 outer 128",
       rotated(nvfp4(quantiser(E2M1, block(1, 16), Nvfp4, Stochastic), {6, 448, 0x1p-9, 128, {}}), 16, Call)},
      {"eden group 128", rotated(eden_group(eden, 128), 128, Call)},
      {"eden, signs last", rotated(eden, 128, Step, true)},
      {"range match to zero", rotated(quantiser(E2M1, block(1, 32), RangeMatch34, NearestZero), 32, Call)},
      {"range match, signs last", rotated(quantiser(E2M1, block(1, 32), RangeMatch34, Stochastic), 32, Call, true)},
      {"nvfp4", quantiser(E2M1, block(1, 16), Nvfp4)},
      {"nvfp4 vector", rotated(quantiser(E2M1, block(1, 16), Nvfp4, Stochastic8), 16, Vector)},
      {"nvfp4 plus 64", rotated(quantiser(E2M1, block(1, 16), Nvfp4, Stochastic), 64, Plus)},
      {"4/6 of pairs", rotated(nvfp4(quantiser(E2M1, block(1, 16), Nvfp4), {6, 256, 1, 0, Selection::Mse}), 2, Step)},
      {"quest", rotated(trusted(quantiser(E2M1, block(1, 32), QuestFloor, NearestZero)), 32, Plus)},
      {"blocks of 64", trusted(quantiser(E2M1, block(1, 64), QuestNearest))},
      {"e4m3", quantiser(E4M3, block(1, 128), Absmax)},
      {"int4", rotated(quantiser(Int4, block(1, 32), Ceil6, NearestZero), 8, Step)},
      {"reference", quantiser(E2M1, block(1, 32), Ceil6, Reference)},
  };
  for (Case& c : list) c.spec.transposed = true;
  return list;
}

/// What is made of values that are written out first.
inline std::vector<Case> other_again_cases() {
  using enum ElementFormat;
  using enum ScaleRule;
  using enum Rounding;
  const auto block = [](int r, int c) { return Granularity::block(r, c); };
  std::vector<Case> list = {
      {"clamp", with_clamp(quantiser(E2M1, block(1, 32), Ceil6), 0.95, true, ResidualMode::Sparse)},
      {"bf16 input", quantiser(E2M1, block(1, 16), Nvfp4, Stochastic)},
      {"blocks of 256", quantiser(E2M1, block(1, 256), Ceil6)},
      {"rows", quantiser(E4M3, Granularity::per_row(), Absmax)},
      {"tiles", quantiser(E2M1, block(16, 16), Nvfp4)},
      {"carried", quantiser(E2M1, block(1, 32), Ceil6)},
      {"f32", quantiser(F32, Granularity::per_row(), None)},
  };
  list[1].spec.bf16_input = true;
  list[5].spec.carrier = E4M3;
  for (Case& c : list) c.spec.transposed = true;
  list.push_back({"as it lies", quantiser(E2M1, block(1, 16), Nvfp4)});
  list.push_back({"columns", quantiser(E2M1, Granularity::per_column(), Absmax)});
  return list;
}

/// Whether the transform's groups divide what the spec makes of [rows, cols].
inline bool divides(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  return (spec.transposed ? rows : cols) % std::max<std::int64_t>(1, spec.hadamard.group) == 0;
}

}  // namespace nibble
