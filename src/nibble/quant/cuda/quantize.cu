// The order of the work: validate, allocate, make the rows of y readable, bound them, encode by the pass that fits
// (job.h), re-express. No pass waits for the GPU.
#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/scales.h"
#include "nibble/quant/cpu/validate.h"
#include "nibble/quant/cuda/clamped_rows.h"
#include "nibble/quant/cuda/job.h"

namespace nibble::quant_cuda {

// One scale a column becomes one scale a row.
QuantSpec turned(QuantSpec spec) {
  spec.transposed = true;
  spec.granularity = Granularity::per_row();
  return spec;
}

// Rounded to nearest, so that no element's number counts, under one scale a column and nothing else.
bool can_be_turned(const QuantSpec& spec) {
  return spec.granularity == Granularity::per_column() && !spec.transposed && !is_stochastic(spec.rounding) &&
         spec.rounding != Rounding::Reference && !spec.trust_mask && spec.carrier == ElementFormat::BF16 &&
         spec.clamp.residual == ResidualMode::None && fits_columns(turned(spec));
}

QTensor empty_result(const QuantSpec& spec, std::int64_t rows, std::int64_t cols) {
  QTensor q = QTensor::form_of(spec, rows, cols);
  q.tensor_scale = quant_cpu::constant_factor(spec.scale);
  q.hadamard = spec.hadamard;
  return q;
}

namespace {

/// How E2M1 codes are best stored for a product.
Form form_for_product(const QuantSpec& spec, std::int64_t cols) {
  const bool plain = spec.element == ElementFormat::E2M1 && spec.carrier == ElementFormat::BF16 &&
                     spec.clamp.residual != ResidualMode::Dense && spec.clamp.residual != ResidualMode::Fused &&
                     cols % 16 == 0;
  if (!plain) return Form::Packed;
  const bool nvfp4 = spec.scale == ScaleRule::Nvfp4 && spec.nvfp4.outer == 0;
  if (nvfp4 && (fits_blocks(spec) || fits_squares(spec))) return Form::BF16;
  const bool by_rows = spec.granularity == Granularity::per_row() && fits_one_pass(spec, cols);
  return by_rows ? Form::E4M3 : Form::Packed;
}

void store_as(QTensor& q, Form form) {
  if (form == Form::Packed) return;
  q.element = form == Form::E4M3 ? ElementFormat::E4M3 : ElementFormat::BF16;
  if (form == Form::E4M3) return;
  q.scale_format = ScaleFormat::None;
  q.granularity = Granularity::per_row();
}

/// The elements in another form: in a carrier's, or in BF16 with the dense residual added.
QTensor empty_form(const QTensor& elements, const QuantSpec& spec, Arena& arena) {
  QTensor q;
  q.rows = elements.rows;
  q.cols = elements.cols;
  q.hadamard = spec.hadamard;
  q.element_granularity = spec.granularity;
  if (spec.carrier != ElementFormat::BF16) {
    q.element = spec.carrier;
    q.granularity = Granularity::per_tensor();
    q.scale_format = ScaleFormat::F32;
  }
  q.element_scales = arena.allocate(DType::F32, {elements.scale_rows(), elements.scale_cols()});
  allocate_parts(q, spec.trust_mask, arena);
  return q;
}

/// x as it stands, or its transpose in scratch.
Tensor by_rows_of_y(const Tensor& x, bool transposed, Arena& arena) {
  if (!transposed) return x;
  const Tensor copy = arena.allocate(x.dtype(), {x.cols(), x.rows()});
  transpose(x, false, copy);
  return copy;
}

/// What Rounding::Reference rounds towards, in the coordinates of the result.
const float* reference_of(Job& job) {
  const Tensor towards = by_rows_of_y(job.context.reference, job.spec.transposed, job.arena);
  cuda::device_data<float>(towards, "reference");
  Job other{job.spec, job.context, job.q, job.arena, DType::F32, plain_source(towards)};
  if (job.spec.hadamard.enabled()) {
    other.source.hadamard = job.source.hadamard;
    materialise(other);
  }
  return static_cast<const float*>(other.source.x);
}

void encode_all(Job& job, const CsrMatrix& residual) {
  const Clamp& clamp = job.spec.clamp;
  const bool known = job.known_block_amax() != nullptr;
  const bool rotates_on_the_way = !has_scale(job.spec.element) || (!known && (fits_rows(job) || fits_blocks(job.spec)));
  if (job.rotated() && (clamp.enabled() || !rotates_on_the_way)) materialise(job);
  if (clamp.enabled() && fits_clamped_rows(job)) return encode_clamped_rows(job, residual);
  if (clamp.enabled()) {
    const std::int32_t* counted = find_bounds(job, residual.defined());
    if (residual.defined()) keep_residual(job, counted, residual);
  }
  if (clamp.residual == ResidualMode::Fused) {
    encode_fused(job);
  } else if (!has_scale(job.spec.element)) {
    encode_unscaled(job);
  } else if (known) {
    encode_by_blocks(job, scale_blocks(job));
  } else if (fits_rows(job)) {
    encode_rows(job);
  } else if (fits_blocks(job.spec) || fits_squares(job.spec)) {
    encode_blocks(job);
  } else {
    encode_by_blocks(job, scale_blocks(job));
  }
}

/// `spec` is valid for x and, but for one that was turned, for the folds. With `encode`, which then does all of the
/// encoding, x is a shape alone.
QTensor carry_out(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena,
                  const EncodeRows& encode = {}) {
  require(x.dtype() == DType::F32 || x.dtype() == DType::BF16, "quantize wants F32 or BF16, got {}", to_string(x));
  const float* row_fold = fold_data(context.row_fold, x.rows(), "row_fold");
  const float* col_fold = fold_data(context.col_fold, x.cols(), "col_fold");
  require(arena.device() == Device::Cuda, "quantize of {} wants an arena on the GPU", to_string(x));
  require(x.rows() < (std::int64_t{1} << 31) && x.cols() < (std::int64_t{1} << 31), "quantize of {}", to_string(x));

  QTensor elements = empty_result(spec, spec.transposed ? x.cols() : x.rows(), spec.transposed ? x.rows() : x.cols());
  const bool dense = spec.clamp.residual == ResidualMode::Dense;
  const bool another_form = dense || spec.carrier != ElementFormat::BF16;
  QTensor form;
  Form stored_as = Form::Packed;
  if (another_form) {
    form = empty_form(elements, spec, arena);
  } else {
    if (spec.clamp.residual == ResidualMode::Fused) elements.element = ElementFormat::E4M3;
    if (context.for_product) stored_as = form_for_product(spec, elements.cols);
    store_as(elements, stored_as);
    allocate_parts(elements, spec.trust_mask, arena);
  }
  if (spec.scale == ScaleRule::Nvfp4 && spec.nvfp4.outer == 0 && elements.rows * elements.cols > 0) {
    elements.device_scale = arena.allocate(DType::F32, {1});
  }
  if (spec.clamp.residual == ResidualMode::Fused || stored_as == Form::E4M3) {
    elements.element_scales = elements.scales;
    elements.element_granularity = spec.granularity;
  }
  QTensor& result = another_form ? form : elements;
  const CsrMatrix residual = residual_for(spec, elements.rows, elements.cols, arena);
  result.residual = residual;
  if (elements.rows * elements.cols == 0) {
    if (residual.defined()) fill_zero_async(residual.row_begin.raw(), residual.row_begin.bytes());
    return result;
  }
  const ArenaScope scope(arena);
  if (another_form) {
    allocate_parts(elements, false, arena);
    elements.mask = form.mask;
  }
  const bool plain = !spec.clamp.enabled() && !spec.hadamard.enabled();
  if (spec.transposed && plain && !has_scale(spec.element)) {
    transpose(x, spec.bf16_input, elements.codes);
    return elements;
  }
  const bool known_blocks = context.amax.defined() && spec.scale != ScaleRule::Nvfp4;
  const bool by_columns = fits_columns(spec) && !known_blocks;
  const Tensor rows = by_rows_of_y(x, spec.transposed && !by_columns, arena);
  Job job{spec, context, elements, arena, x.dtype(), plain_source(rows)};
  job.form = stored_as;
  job.source.round_to_bf16 = spec.bf16_input && x.dtype() == DType::F32;
  job.source.row_fold = row_fold;
  job.source.col_fold = col_fold;
  job.source.hadamard = hadamard_factors(spec.hadamard, context.signs);
  if (spec.rounding == Rounding::Reference) job.reference = reference_of(job);
  if (encode) {
    encode(job, residual);
  } else if (by_columns) {
    encode_columns(job);
  } else {
    encode_all(job, residual);
  }
  if (!another_form) return elements;
  copy_element_scales(elements, form);
  if (dense) {
    add_dense_residual(job, form);
  } else {
    carry(job, elements, form);
  }
  return form;
}

}  // namespace

}  // namespace nibble::quant_cuda

namespace nibble {

namespace {

void validate(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context) {
  quant_cpu::validate(x, spec, context);
  const bool folds = context.row_fold.defined() || context.col_fold.defined();
  require(!spec.transposed || !folds,
          "folds lie along the rows and columns of x: they are not for a transposed operand");
}

}  // namespace

QTensor quant_cuda::quantize_by(const Tensor& shape, const QuantSpec& spec, const QuantizeContext& context,
                                Arena& arena, const EncodeRows& encode) {
  validate(shape, spec, context);
  return carry_out(shape, spec, context, arena, encode);
}

QTensor cuda::quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  validate(x, spec, context);
  const bool turned = context.for_product && quant_cuda::can_be_turned(spec);
  QTensor q = quant_cuda::carry_out(x, turned ? quant_cuda::turned(spec) : spec, context, arena);
  q.turned = turned;
  return q;
}

void cuda::shared_amax(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, const Tensor& amax,
                       Arena& scratch) {
  validate(x, spec, context);
  QTensor q =
      quant_cuda::empty_result(spec, spec.transposed ? x.cols() : x.rows(), spec.transposed ? x.rows() : x.cols());
  const Tensor rows = quant_cuda::by_rows_of_y(x, spec.transposed, scratch);
  quant_cuda::Job job{spec, context, q, scratch, x.dtype(), quant_cuda::plain_source(rows)};
  job.source.round_to_bf16 = spec.bf16_input && x.dtype() == DType::F32;
  job.source.row_fold = quant_cuda::fold_data(context.row_fold, x.rows(), "row_fold");
  job.source.col_fold = quant_cuda::fold_data(context.col_fold, x.cols(), "col_fold");
  job.source.hadamard = quant_cuda::hadamard_factors(spec.hadamard, context.signs);
  if (job.rotated()) quant_cuda::materialise(job);
  quant_cuda::find_shared_amax(job, device_data<std::int32_t>(amax, "shared_amax"));
}

QTensor cuda::requantize_codes(const QTensor& q, const QuantSpec& spec, const QuantizeContext& context, Arena& arena) {
  const Tensor shape(nullptr, DType::F32, {q.rows, q.cols}, Device::Cuda);
  return quant_cuda::quantize_by(shape, spec, context, arena, [&](quant_cuda::Job& job, const CsrMatrix&) {
    job.source.wide = true;
    quant_cuda::encode_stored(job, q);
  });
}

}  // namespace nibble
