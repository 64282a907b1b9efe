// Specs whose scales cover all rows of a matrix, for tests of quantising it in parts.
#pragma once

#include <string>
#include <vector>

#include "nibble/quant/quantize.h"

namespace nibble::testing {

struct SharedCase {
  std::string name;
  QuantSpec spec;
};

inline std::vector<SharedCase> shared_cases() {
  std::vector<SharedCase> all;
  const auto add = [&](const char* name, ElementFormat element, Granularity granularity, ScaleRule rule,
                       bool transposed) -> QuantSpec& {
    QuantSpec spec;
    spec.element = element;
    spec.granularity = granularity;
    spec.scale = rule;
    spec.transposed = transposed;
    return all.emplace_back(SharedCase{name, spec}).spec;
  };
  using enum ElementFormat;
  using enum ScaleRule;
  for (const bool transposed : {false, true}) {
    add(transposed ? "NVFP4, transposed" : "NVFP4", E2M1, Granularity::block(1, 16), Nvfp4, transposed);
    add(transposed ? "tensor, transposed" : "tensor", E4M3, Granularity::per_tensor(), Absmax, transposed);
    add(transposed ? "NVFP4 16 x 16, stochastic, transposed" : "NVFP4 16 x 16, stochastic", E2M1,
        Granularity::block(16, 16), Nvfp4, transposed)
        .rounding = Rounding::Stochastic;
    add(transposed ? "NVFP4 8 x 16, transposed" : "NVFP4 8 x 16", E2M1, Granularity::block(8, 16), Nvfp4, transposed);
    add(transposed ? "NVFP4 80 x 16, transposed" : "NVFP4 80 x 16", E2M1, Granularity::block(80, 16), Nvfp4,
        transposed);
  }
  add("column", E4M3, Granularity::per_column(), Absmax, false);
  add("column, four bits, powers of two", E2M1, Granularity::per_column(), AbsmaxPow2, false).trust_mask = true;
  add("columns of blocks, E8M0", E5M2, Granularity::block(0, 32), Ceil6, false);
  add("column of x as a row", E4M3, Granularity::per_row(), Absmax, true);
  add("column of x as a row, four bits", E2M1, Granularity::per_row(), Absmax, true).rounding = Rounding::NearestUp;
  add("rows of bands", E3M0, Granularity::block(4, 0), Absmax, true).rounding = Rounding::Stochastic;
  add("NVFP4, rotated", E2M1, Granularity::block(1, 16), Nvfp4, false).hadamard = {16, Hadamard::Signs::Step, false};
  add("NVFP4, four-over-six", E2M1, Granularity::block(1, 16), Nvfp4, false).nvfp4.selection = Selection::Mse;
  add("NVFP4, rotated, Eden, transposed", E2M1, Granularity::block(1, 16), Nvfp4, true).hadamard = {
      8, Hadamard::Signs::Step, false};
  all.back().spec.rounding = Rounding::Eden;
  add("tensor, rotated, BF16 input", E4M3, Granularity::per_tensor(), Absmax, false).hadamard = {
      32, Hadamard::Signs::Plus, false};
  all.back().spec.bf16_input = true;
  return all;
}

}  // namespace nibble::testing
