// The order of the work: validate, allocate, encode by the pass that fits (passes.h), re-express.
#include <atomic>

#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/carrier.h"
#include "nibble/quant/cpu/fused.h"
#include "nibble/quant/cpu/passes.h"
#include "nibble/quant/cpu/validate.h"

namespace nibble::quant_cpu {

namespace {

/// The most entries that a row has outside the bounds.
std::int64_t most_outside(const Source& source, KeyBounds<std::int32_t> bounds) {
  std::atomic<std::int64_t> most{0};
  parallel_for(source.rows(), rows_per_chunk(source.row_bytes()), [&](std::int64_t begin, std::int64_t end) {
    RowReader read(source);
    const Scratch<float> buffer = scratch<float>(source.cols());
    std::int64_t here = 0;
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = read(r, buffer.get());
      here = std::max<std::int64_t>(here, std::count_if(y, y + source.cols(), [&](float v) {
                                      return float_key(v) < bounds.low || float_key(v) > bounds.high;
                                    }));
    }
    std::int64_t seen = most.load();
    while (seen < here && !most.compare_exchange_weak(seen, here)) {
    }
  });
  return most.load();
}

ResidualRows residual_for(const Source& source, const Clamp& clamp, Arena& arena) {
  if (!clamp.enabled() || clamp.residual != ResidualMode::Sparse) return {};
  const std::int64_t rows = source.rows();
  const std::int64_t cols = source.cols();
  const std::int64_t capacity = rows * cols == 0 ? 0
                                : clamp.per_row  ? rows * quantile_index(clamp.alpha, cols).outside(cols)
                                                 : quantile_index(clamp.alpha, rows * cols).outside(rows * cols);
  return ResidualRows(rows, cols, capacity, arena);
}

QTensor empty_result(const Source& source, ElementFormat element, Granularity granularity, ScaleFormat format) {
  QTensor q;
  q.element = element;
  q.rows = source.rows();
  q.cols = source.cols();
  q.granularity = granularity;
  q.scale_format = format;
  return q;
}

QTensor empty_elements(const Source& source, const QuantSpec& spec) {
  QTensor q = QTensor::form_of(spec, source.rows(), source.cols());
  q.tensor_scale = constant_factor(spec.scale);
  q.hadamard = spec.hadamard;
  return q;
}

void encode_all(Job& job, Arena& arena) {
  const Clamp& clamp = job.spec.clamp;
  if (clamp.enabled() && !clamp.per_row) {
    job.tensor_bounds = tensor_bounds(job.source, clamp.alpha);
    if (job.residual.enabled()) job.residual.open(most_outside(job.source, job.tensor_bounds), arena);
  } else if (clamp.enabled()) {
    job.residual.open(quantile_index(clamp.alpha, job.cols()).outside(job.cols()), arena);
  }
  if (job.known_block_amax() != nullptr) {
    require(moments_of(job.spec.scale) == Moments::None && !clamp.enabled() &&
                job.context.amax.numel() == job.q.scale_rows() * job.q.scale_cols(),
            "{} known magnitudes for {} x {} scales that follow from an amax", job.context.amax.numel(),
            job.q.scale_rows(), job.q.scale_cols());
  }
  if (!has_scale(job.q.element)) {
    encode_unscaled(job);
  } else if (job.known_block_amax() == nullptr && fits_bf16_rows(job)) {
    encode_bf16_rows(job);
  } else if (job.known_block_amax() == nullptr && fits_bf16_blocks(job)) {
    encode_bf16_blocks(job);
  } else if (job.q.block_rows() <= kTallestBand) {
    encode_bands(job);
  } else {
    encode_tall(job, arena);
  }
  job.q.residual = job.residual.finish();
}

/// The elements in another form: in a carrier's, in BF16 with the dense residual added, or in E4M3 with the fused one.
QTensor empty_form(const Source& source, const QuantSpec& spec, Arena& arena) {
  if (spec.clamp.residual == ResidualMode::Fused) {
    QTensor q = empty_result(source, ElementFormat::E4M3, spec.granularity, ScaleFormat::F32);
    q.hadamard = spec.hadamard;
    q.element_granularity = spec.granularity;
    allocate_parts(q, false, arena);
    q.element_scales = q.scales;
    return q;
  }
  const bool carried = spec.carrier != ElementFormat::BF16;
  QTensor q = carried ? empty_result(source, spec.carrier, Granularity::per_tensor(), ScaleFormat::F32)
                      : empty_result(source, ElementFormat::BF16, {}, ScaleFormat::None);
  q.hadamard = spec.hadamard;
  q.element_granularity = spec.granularity;
  const QTensor elements = empty_elements(source, spec);
  q.element_scales = arena.allocate(DType::F32, {elements.scale_rows(), elements.scale_cols()});
  allocate_parts(q, spec.trust_mask, arena);
  return q;
}

QTensor carry_out(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  validate(x, spec, context);
  const Source source(x, spec.bf16_input, context, spec.transposed, spec.hadamard);
  std::optional<Source> reference;
  if (spec.rounding == Rounding::Reference) {
    QuantizeContext unfolded;
    unfolded.signs = context.signs;
    reference.emplace(context.reference, false, unfolded, spec.transposed, spec.hadamard);
  }
  const bool dense = spec.clamp.residual == ResidualMode::Dense;
  const bool fused = spec.clamp.residual == ResidualMode::Fused;
  const bool another_form = dense || fused || spec.carrier != ElementFormat::BF16;
  QTensor elements = empty_elements(source, spec);
  QTensor form;
  if (another_form) {
    form = empty_form(source, spec, arena);
  } else {
    allocate_parts(elements, spec.trust_mask, arena);
  }
  ResidualRows residual = residual_for(source, spec.clamp, arena);
  const ArenaScope scope(arena);
  if (another_form) {
    allocate_parts(elements, false, arena);
    elements.mask = form.mask;
    if (fused) elements.scales = form.scales;
  }
  if (source.rows() * source.cols() == 0) {
    QTensor& empty = another_form ? form : elements;
    if (residual.enabled()) {
      residual.open(0, arena);
      empty.residual = residual.finish();
    }
    return empty;
  }
  Scratch<KeyBounds<std::int32_t>> row_bounds;
  Job job{source, reference.has_value() ? &*reference : nullptr, spec, context, elements, residual, nullptr, {}, {}};
  if (spec.clamp.enabled() && spec.clamp.per_row) {
    row_bounds = scratch<KeyBounds<std::int32_t>>(source.rows());
    job.row_bounds = row_bounds.get();
  }
  encode_all(job, arena);
  if (!another_form) return elements;
  if (fused) {
    fuse_residual(job, form);
    return form;
  }
  copy_element_scales(elements, form);
  if (dense) {
    add_dense_residual(job, form);
  } else {
    carry(elements, form);
    form.residual = elements.residual;
  }
  return form;
}

}  // namespace

}  // namespace nibble::quant_cpu

namespace nibble {

QTensor cpu::quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  return quant_cpu::carry_out(x, spec, context, arena);
}

void cpu::shared_amax(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, const Tensor& amax,
                      Arena&) {
  quant_cpu::validate(x, spec, context);
  const quant_cpu::Source source(x, spec.bf16_input, context, spec.transposed, spec.hadamard);
  QTensor elements = quant_cpu::empty_elements(source, spec);
  quant_cpu::ResidualRows no_residual;
  const quant_cpu::Job job{source, nullptr, spec, context, elements, no_residual, nullptr, {}, {}};
  quant_cpu::find_shared_amax(job, amax.data<std::int32_t>());
}

}  // namespace nibble
