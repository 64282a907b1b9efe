#include "nibble/quant/cpu/validate.h"

#include <bit>

#include "nibble/numerics/fp8.h"
#include "nibble/quant/cpu/job.h"
#include "nibble/quant/cpu/scales.h"

namespace nibble::quant_cpu {

namespace {

void validate_scale(const QuantSpec& spec) {
  const bool e2m1 = spec.element == ElementFormat::E2M1;
  require(has_scale(spec.element) == (spec.scale != ScaleRule::None),
          "a scale rule is for elements that take a scale (all but F32 and BF16), and those need one");
  require(moments_of(spec.scale) != Moments::Signed || e2m1, "the QuEST scale rules are for E2M1 elements");
  require(spec.scale != ScaleRule::Sawb || spec.element == ElementFormat::Int4,
          "the SAWB scale rule is for Int4 elements");
  require(spec.scale != ScaleRule::RangeMatch34 || spec.element != ElementFormat::E3M0,
          "RangeMatch34 leaves elements below 1.5 powers of two, which E3M0 does not reach");
  require(spec.granularity.rows >= 0 && spec.granularity.cols >= 0, "a block of {} x {} elements",
          spec.granularity.rows, spec.granularity.cols);
  if (spec.scale != ScaleRule::Nvfp4) return;
  const Nvfp4Scale& rule = spec.nvfp4;
  require(e2m1, "Nvfp4 scales are for E2M1 elements");
  require(rule.val_max > 0 && rule.scale_max > 0 && rule.scale_max <= static_cast<double>(kE4M3Max),
          "Nvfp4 scales with val_max {} and scale_max {}: both are positive, scale_max at most 448", rule.val_max,
          rule.scale_max);
  const auto zero = static_cast<float>(rule.zero_scale);
  require(zero >= 0 && e4m3_decode(e4m3_encode(zero)) == zero, "zero_scale {} is not an E4M3 number", rule.zero_scale);
  require(rule.outer >= 0, "an outer scale of {} columns", rule.outer);
  require(rule.outer == 0 ||
              (spec.granularity.rows == 1 && spec.granularity.cols > 0 && rule.outer % spec.granularity.cols == 0),
          "an outer scale of {} columns is for blocks within a row that divide it", rule.outer);
  require(rule.selection == Selection::None || (spec.granularity.rows >= 1 && spec.granularity.rows <= kTallestBand),
          "four-over-six is for blocks of 1 to {} rows", kTallestBand);
}

void validate_rounding(const QuantSpec& spec, const Tensor& x, const QuantizeContext& context) {
  const bool e2m1 = spec.element == ElementFormat::E2M1;
  const Rounding rounding = spec.rounding;
  require(is_four_bit(spec.element) || rounding == Rounding::NearestEven,
          "elements of more than four bits round to nearest even");
  require(e2m1 || (rounding != Rounding::Stochastic8 && rounding != Rounding::Eden && rounding != Rounding::Reference),
          "Stochastic8, Eden and Reference rounding are for E2M1 elements");
  require(spec.log_steps >= 1 && spec.log_steps <= 6, "log_steps is {}, it lies in 1 to 6", spec.log_steps);
  if (rounding == Rounding::Eden) {
    require(spec.scale == ScaleRule::Nvfp4 && spec.granularity == Granularity::block(1, 16),
            "Eden rounding is for Nvfp4 scales of 1 x 16 blocks");
    require(spec.nvfp4.selection == Selection::None,
            "Eden rounding corrects the scales; choosing them by their error would bias them again");
    require(spec.eden_group > 0 && spec.eden_group % 16 == 0, "eden_group is {}, it is a multiple of 16",
            spec.eden_group);
  }
  if (rounding == Rounding::Reference) {
    require(context.reference.defined() && context.reference.dtype() == DType::F32 &&
                context.reference.rows() == x.rows() && context.reference.cols() == x.cols(),
            "Reference rounding of {} wants a reference of the same shape in F32, got {}", to_string(x),
            to_string(context.reference));
    require(!context.row_fold.defined() && !context.col_fold.defined(),
            "Reference rounding takes no folds: the reference would be left without them");
  }
}

void validate_hadamard(const Hadamard& hadamard, std::int64_t cols) {
  if (!hadamard.enabled()) return;
  require(
      hadamard.group >= 2 && hadamard.group <= 256 && std::has_single_bit(static_cast<std::uint64_t>(hadamard.group)),
      "a Hadamard transform of groups of {}; a group is a power of two from 2 to 256", hadamard.group);
  require(hadamard.signs != Hadamard::Signs::Vector || hadamard.group == 16,
          "the constant sign vector is for Hadamard groups of 16");
  if (cols % hadamard.group != 0) {
    user_error("a Hadamard transform of groups of {} does not divide rows of {}: choose a group that divides them",
               hadamard.group, cols);
  }
}

}  // namespace

void validate(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context) {
  validate_scale(spec);
  validate_rounding(spec, x, context);
  validate_hadamard(spec.hadamard, spec.transposed ? x.rows() : x.cols());
  require(!spec.trust_mask || spec.element == ElementFormat::E2M1, "a trust mask is for E2M1 elements");
  const bool carried = spec.carrier != ElementFormat::BF16;
  require(!carried || (is_four_bit(spec.element) &&
                       (spec.carrier == ElementFormat::E4M3 || spec.carrier == ElementFormat::E5M2)),
          "a carrier is E4M3 or E5M2 and carries four-bit elements");
  if (spec.clamp.residual == ResidualMode::Dense) {
    require(spec.clamp.enabled() && has_scale(spec.element),
            "a dense residual is what a clamp cuts off elements that take a scale");
    require(!carried, "a dense residual makes a BF16 operand, which takes no carrier");
  }
  if (spec.clamp.residual == ResidualMode::Fused) {
    require(spec.clamp.enabled() && spec.element == ElementFormat::E2M1,
            "a fused residual is what a clamp cuts off E2M1 elements, all of which E4M3 holds exactly");
    require((spec.scale == ScaleRule::Absmax || spec.scale == ScaleRule::AbsmaxPow2) &&
                (spec.granularity == Granularity::per_row() || spec.granularity == Granularity::per_tensor()),
            "a fused residual is for an absmax scale a row or of the tensor, which leaves the product of the elements");
    require(!carried, "a fused residual makes E4M3 elements, which take no carrier");
    require(!spec.trust_mask, "a trust mask marks what the E2M1 grid cuts off, which a fused residual keeps");
  }
}

}  // namespace nibble::quant_cpu
