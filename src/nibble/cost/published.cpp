#include "nibble/cost/published.h"

namespace nibble {

namespace {
constexpr double kElementwise = 36;  // two LayerNorms (8) and GeLU (28)
constexpr double kDge = 32;          // 8 * 12 / 3
}  // namespace

double WangSpeedup::ideal() const {
  const double rest = 5 * seq + kElementwise;
  return (24 * width + rest) / (6 * width + rest);
}

double WangSpeedup::dge_share() const { return kDge / (6 * width + 5 * seq + kElementwise); }

double WangSpeedup::printed_formula() const {
  const double rest = 5 * seq + kElementwise;
  return (24 * width + rest) / (6 * width + 24 * (1 - alpha) * width + rest + kDge);
}

double WangSpeedup::printed_formula_occ_share() const {
  return 24 * (1 - alpha) * width / (6 * width + 5 * seq + kElementwise);
}

double WangSpeedup::printed_figure() const {
  const double rest = 5 * seq + kElementwise;
  return (24 * width + rest) / (6 * width + 48 * (1 - alpha) * width + rest + kDge);
}

double WangSpeedup::printed_figure_occ_share() const { return 2 * printed_formula_occ_share(); }

double ZhouCost::ffn_share() const { return 6 * ffn / (6 * ffn + 8 * width + 4 * seq); }
double ZhouCost::attention_linear_share() const { return 8 * width / (6 * ffn + 8 * width + 4 * seq); }
double ZhouCost::core_share() const { return 4 * seq / (6 * ffn + 8 * width + 4 * seq); }

double ZhouCost::relative(double ffn_forward, double attention_forward, double backward) const {
  const double forward = ffn_share() / ffn_forward + attention_linear_share() / attention_forward + core_share();
  const double back = (ffn_share() + attention_linear_share()) / backward + core_share();
  return (forward + 2 * back) / 3;
}

}  // namespace nibble
