// Cost formulas of the literature, under the names by which docs/cost.md explains them.
#pragma once

namespace nibble {

/// Wang et al. 2025, section on theoretical speed-up: a GPT layer of width h and sequence length s, FLOPs for each of b
/// s h values and forward: products 24 h, attention core 5 s, LayerNorm and GeLU 36. FP4 runs the products at four
/// times the rate.
struct WangSpeedup {
  double width = 0;
  double seq = 0;
  double alpha = 0.99;  ///< of OCC's clamp

  double ideal() const;  ///< (24h + 5s + 36) / (6h + 5s + 36); the paper prints 3.12 for h = 4096, s = 2048
  /// DGE: 8 elementwise operations on 12 b s h values in the backward, 32 in units of the forward: share of the FP4
  /// step.
  double dge_share() const;
  /// OCC by the formula that the paper prints: 2 (1 - alpha) 12 b s h^2, a sparse product at FP8's half cost: 3.027.
  double printed_formula() const;
  double printed_formula_occ_share() const;
  /// The figure that the paper prints, 2.95, and its 5.6 %: both follow without FP8's discount, 48 (1 - alpha) h.
  double printed_figure() const;
  double printed_figure_occ_share() const;
};

/// Zhou et al. 2025: forward FLOPs of a Llama layer at width d, FFN width f, sequence length s: FFN 6 d f, attention
/// linears 8 d^2, attention core 4 d s; the backward costs twice the forward.
struct ZhouCost {
  double width = 0;
  double ffn = 0;
  double seq = 0;

  double ffn_share() const;
  double attention_linear_share() const;
  double core_share() const;
  /// Cost of a step over that in 16 bits, with products running at these multiples of the 16-bit rate.
  double relative(double ffn_forward, double attention_forward, double backward) const;
};

}  // namespace nibble
