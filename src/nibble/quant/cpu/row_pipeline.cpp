#include "nibble/quant/cpu/row_pipeline.h"

#include "nibble/quant/cpu/eden.h"
#include "nibble/quant/cpu/encode.h"
#include "nibble/quant/cpu/four_bit.h"
#include "nibble/quant/cpu/stochastic.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

template <class Scaled>
NIBBLE_INLINE void flag_row(const float* __restrict y, Scaled scaled, float limit, std::int64_t n,
                            std::uint8_t* __restrict flags) {
  for (std::int64_t i = 0; i < n; ++i) flags[i] = float_abs(scaled(y, i)) < limit ? 1 : 0;
}
NIBBLE_SIMD void flag_by_scalar(const float* y, float m, float limit, std::int64_t n, std::uint8_t* flags) {
  flag_row(y, ByScalar{m}, limit, n, flags);
}
NIBBLE_SIMD void flag_by_column(const float* y, const float* m, float limit, std::int64_t n, std::uint8_t* flags) {
  flag_row(y, ByColumn{m}, limit, n, flags);
}
/// y_c becomes y - y_c.
NIBBLE_SIMD void subtract_from(const float* __restrict y, std::int64_t n, float* __restrict clamped) {
  for (std::int64_t i = 0; i < n; ++i) clamped[i] = y[i] - clamped[i];
}

constexpr std::int64_t kEdenBlock = 16;

}  // namespace

RowPipeline::RowPipeline(const Job& job)
    : job_(job),
      reader_(job.source),
      search_(job.spec.clamp.enabled() ? job.spec.clamp.alpha : 1.0, std::max<std::int64_t>(job.cols(), 1)) {
  const std::int64_t n = job.cols();
  if (is_four_bit(job.q.element)) codes_ = scratch<std::uint8_t>((n + 7) / 8 * 8);
  if (job.spec.clamp.enabled()) {
    y_ = scratch<float>(n);
    keys_ = scratch<std::int32_t>(n);
    outside_ = scratch<std::uint64_t>((n + 63) / 64);
    found_ = scratch<std::int32_t>(n + 1);
  }
  if (job.spec.rounding == Rounding::Stochastic) words_ = scratch<std::uint32_t>(n);
  if (job.spec.rounding == Rounding::Stochastic8) bytes_ = scratch<std::uint8_t>(n);
  if (job.spec.rounding == Rounding::Eden) words_ = scratch<std::uint32_t>((n + kEdenBlock - 1) / kEdenBlock);
  if (job.spec.rounding == Rounding::Reference) {
    reference_.emplace(*job.reference);
    towards_ = scratch<float>(n);
  }
}

const float* RowPipeline::clamped(std::int64_t r, bool bounds_known, float* out) {
  if (!job_.spec.clamp.enabled()) return reader_(r, out);
  const float* y = reader_(r, y_.get());
  KeyBounds<std::int32_t> bounds = job_.tensor_bounds;
  if (job_.spec.clamp.per_row) {
    if (bounds_known) {
      bounds = job_.row_bounds[r];
    } else {
      to_keys(y, job_.cols(), keys_.get());
      bounds = search_(keys_.get());
      if (job_.row_bounds != nullptr) job_.row_bounds[r] = bounds;
    }
  }
  clamp_row(y, bounds, job_.cols(), out);
  unclamped_ = y;
  clamped_ = out;
  bounds_ = bounds;
  return out;
}

void RowPipeline::keep_residual(std::int64_t r) {
  if (!job_.residual.enabled()) return;
  mark_outside(unclamped_, bounds_, job_.cols(), outside_.get());
  job_.residual.write(r, unclamped_, clamped_, outside_.get(), found_.get());
}

const float* RowPipeline::cut_off(std::int64_t r, float* out) {
  clamped(r, true, out);
  subtract_from(unclamped_, job_.cols(), out);
  return out;
}

void RowPipeline::encode(std::int64_t r, const float* y, Multiplier multiplier) {
  const std::int64_t n = job_.cols();
  const QTensor& q = job_.q;
  switch (q.element) {
    case ElementFormat::F32: std::copy_n(y, n, q.codes.data<float>() + r * n); break;
    case ElementFormat::BF16: encode_bf16(y, n, q.codes.data<bf16>() + r * n); break;
    case ElementFormat::E4M3: encode_e4m3(y, multiplier, n, q.codes.data<std::uint8_t>() + r * n); break;
    case ElementFormat::E5M2: encode_e5m2(y, multiplier, n, q.codes.data<std::uint8_t>() + r * n); break;
    case ElementFormat::E2M1:
    case ElementFormat::Int4:
    case ElementFormat::E3M0:
      encode_four_bit(r, y, multiplier);
      pack_nibbles(codes_.get(), n, q.codes.data<std::uint8_t>() + r * q.code_row_bytes());
      break;
  }
}

void RowPipeline::encode_four_bit(std::int64_t r, const float* y, Multiplier multiplier) {
  const std::int64_t n = job_.cols();
  const ElementFormat element = job_.q.element;
  const int log_steps = job_.spec.log_steps;
  std::uint8_t* codes = codes_.get();
  switch (job_.spec.rounding) {
    case Rounding::Stochastic:
      random_words(job_.context.random, job_.first_element(r), n, words_.get());
      if (element == ElementFormat::E2M1) return encode_e2m1_stochastic(y, multiplier, words_.get(), n, codes);
      if (element == ElementFormat::Int4) return encode_int4_stochastic(y, multiplier, words_.get(), n, codes);
      return encode_e3m0_stochastic(y, multiplier, log_steps, words_.get(), n, codes);
    case Rounding::Stochastic8:
      random_bytes(job_.context.random, job_.first_element(r), n, bytes_.get());
      return encode_e2m1_stochastic8(y, multiplier, bytes_.get(), n, codes);
    case Rounding::Reference: return encode_e2m1_reference(y, (*reference_)(r, towards_.get()), multiplier, n, codes);
    case Rounding::Eden: return encode_e2m1(y, multiplier, Rounding::NearestEven, n, codes);
    case Rounding::NearestEven:
    case Rounding::NearestUp:
    case Rounding::NearestZero:
    case Rounding::NearestAway:
      if (element == ElementFormat::E2M1) return encode_e2m1(y, multiplier, job_.spec.rounding, n, codes);
      if (element == ElementFormat::Int4) return encode_int4(y, multiplier, job_.spec.rounding, n, codes);
      return encode_e3m0(y, multiplier, job_.spec.rounding, log_steps, n, codes);
  }
}

void RowPipeline::mark_trusted(std::int64_t r, const float* y, Multiplier multiplier) {
  const std::int64_t n = job_.cols();
  const float limit = element_max(job_.spec.element);
  std::uint8_t* flags = codes_.get();  // the codes are packed by now
  if (multiplier.each != nullptr) {
    flag_by_column(y, multiplier.each, limit, n, flags);
  } else {
    flag_by_scalar(y, multiplier.scalar, limit, n, flags);
  }
  pack_bits(flags, n, job_.q.mask.data<std::uint8_t>() + r * job_.q.mask.cols());
}

void RowPipeline::correct_scales(std::int64_t r, const float* y, const float* multiplier) {
  const std::int64_t blocks = job_.q.scale_cols();
  random_words(job_.context.random, job_.first_element(r) / kEdenBlock, blocks, words_.get());
  std::uint8_t* scales = job_.q.scales.data<std::uint8_t>() + r * blocks;
  eden_scales(y, multiplier, codes_.get(), job_.cols(), job_.spec.eden_group, scales, words_.get(), scales);
}

}  // namespace nibble::quant_cpu
