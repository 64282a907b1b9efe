#include "nibble/recipe/names.h"

namespace nibble {

const Names<ElementFormat>& element_names() {
  static const Names<ElementFormat> names = {{"f32", ElementFormat::F32},   {"bf16", ElementFormat::BF16},
                                             {"e2m1", ElementFormat::E2M1}, {"int4", ElementFormat::Int4},
                                             {"e3m0", ElementFormat::E3M0}, {"e4m3", ElementFormat::E4M3},
                                             {"e5m2", ElementFormat::E5M2}};
  return names;
}

const Names<ScaleRule>& scale_names() {
  static const Names<ScaleRule> names = {{"absmax", ScaleRule::Absmax},
                                         {"absmax-pow2", ScaleRule::AbsmaxPow2},
                                         {"ocp-floor", ScaleRule::OcpFloor},
                                         {"ceil6", ScaleRule::Ceil6},
                                         {"nearest6", ScaleRule::Nearest6},
                                         {"range-match34", ScaleRule::RangeMatch34},
                                         {"quest-floor", ScaleRule::QuestFloor},
                                         {"quest-nearest", ScaleRule::QuestNearest},
                                         {"quest-ceil", ScaleRule::QuestCeil},
                                         {"quest-exact", ScaleRule::QuestExact},
                                         {"nvfp4", ScaleRule::Nvfp4},
                                         {"sawb", ScaleRule::Sawb}};
  return names;
}

const Names<Rounding>& rounding_names() {
  static const Names<Rounding> names = {{"nearest-even", Rounding::NearestEven},
                                        {"nearest-up", Rounding::NearestUp},
                                        {"nearest-zero", Rounding::NearestZero},
                                        {"nearest-away", Rounding::NearestAway},
                                        {"stochastic", Rounding::Stochastic},
                                        {"stochastic-8bit", Rounding::Stochastic8},
                                        {"eden", Rounding::Eden},
                                        {"reference", Rounding::Reference}};
  return names;
}

const Names<Selection>& selection_names() {
  static const Names<Selection> names = {
      {"none", Selection::None}, {"mse", Selection::Mse}, {"mae", Selection::Mae}, {"max-abs", Selection::MaxAbs}};
  return names;
}

const Names<Hadamard::Signs>& sign_names() {
  static const Names<Hadamard::Signs> names = {{"plus", Hadamard::Signs::Plus},
                                               {"vector", Hadamard::Signs::Vector},
                                               {"step", Hadamard::Signs::Step},
                                               {"call", Hadamard::Signs::Call}};
  return names;
}

const Names<ResidualMode>& residual_names() {
  static const Names<ResidualMode> names = {{"none", ResidualMode::None},
                                            {"sparse", ResidualMode::Sparse},
                                            {"dense", ResidualMode::Dense},
                                            {"fused", ResidualMode::Fused}};
  return names;
}

const Names<OperandSource>& source_names() {
  static const Names<OperandSource> names = {{"high-precision", OperandSource::HighPrecision},
                                             {"fprop", OperandSource::Fprop},
                                             {"requantise", OperandSource::Requantise}};
  return names;
}

const Names<OscillationReset::Criterion>& criterion_names() {
  static const Names<OscillationReset::Criterion> names = {{"ratio", OscillationReset::Criterion::Ratio},
                                                           {"edge", OscillationReset::Criterion::Edge}};
  return names;
}

const Names<Stage::Monitor>& monitor_names() {
  static const Names<Stage::Monitor> names = {{"none", Stage::Monitor::None},
                                              {"gradient-to-noise", Stage::Monitor::GradientToNoise}};
  return names;
}

const char* operand_name(Operand operand) {
  static constexpr const char* names[] = {"fprop.x", "fprop.w", "dgrad.dy", "dgrad.w", "wgrad.dy", "wgrad.x"};
  return names[static_cast<std::size_t>(operand)];
}

const char* tensor_name(Operand operand) {
  static constexpr const char* names[] = {"X", "W", "dY", "W", "dY", "X"};
  return names[static_cast<std::size_t>(operand)];
}

bool contraction_runs_down(Operand operand) {
  return operand == Operand::DgradW || operand == Operand::WgradDy || operand == Operand::WgradX;
}

Operand fprop_counterpart(Operand operand) { return operand == Operand::DgradW ? Operand::FpropW : Operand::FpropX; }

Operand partner_of(Operand operand) { return static_cast<Operand>(static_cast<std::size_t>(operand) ^ 1U); }

}  // namespace nibble
