#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/clamp.h"
#include "nibble/quant/cpu/decode.h"
#include "nibble/quant/cpu/multiplier.h"
#include "nibble/quant/cpu/scales.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble {

double QuantQuality::snr_db() const {
  return noise == 0 ? std::numeric_limits<double>::infinity() : 10 * std::log10(signal / noise);
}

double QuantQuality::cosine() const {
  const double norms = std::sqrt(signal) * std::sqrt(quantised);
  return norms == 0 ? (signal == quantised ? 1.0 : 0.0) : dot / norms;
}

double QuantQuality::relative_mse() const { return noise == 0 ? 0.0 : noise / signal; }

void QuantQuality::merge(const QuantQuality& other) {
  signal += other.signal;
  noise += other.noise;
  dot += other.dot;
  quantised += other.quantised;
  error += other.error;
  magnitude += other.magnitude;
  count += other.count;
  underflow += other.underflow;
  clamped += other.clamped;
  clipped += other.clipped;
  blocks += other.blocks;
  scale_saturated += other.scale_saturated;
  scale_underflow += other.scale_underflow;
}

namespace {

using quant_cpu::AmaxBits;
using quant_cpu::KeyBounds;
using quant_cpu::RowReader;
using quant_cpu::Source;

/// Sums in a fixed number of lanes, so that vectors of any width add in the same order.
struct Sums {
  static constexpr int kLanes = 8;
  double signal[kLanes] = {};
  double noise[kLanes] = {};
  double dot[kLanes] = {};
  double quantised[kLanes] = {};
  double error[kLanes] = {};
  double magnitude[kLanes] = {};
};

/// Lane l of the sums takes entry l of y and v.
NIBBLE_INLINE void add_entry(Sums& s, int l, float y, float v) {
  const double a = static_cast<double>(y);
  const double b = static_cast<double>(v);
  s.signal[l] += a * a;
  s.noise[l] += (a - b) * (a - b);
  s.dot[l] += a * b;
  s.quantised[l] += b * b;
  s.error[l] += b - a;
  s.magnitude[l] += static_cast<double>(float_abs(y));
}

NIBBLE_SIMD void add_row(const float* __restrict y, const float* __restrict v, std::int64_t n, Sums& sums) {
  Sums s = sums;
  std::int64_t i = 0;
  for (; i + Sums::kLanes <= n; i += Sums::kLanes) {
    for (int l = 0; l < Sums::kLanes; ++l) add_entry(s, l, y[i + l], v[i + l]);
  }
  for (int l = 0; i + l < n; ++l) add_entry(s, l, y[i + l], v[i + l]);
  sums = s;
}

NIBBLE_SIMD std::int64_t count_underflow(const float* __restrict y, const float* __restrict v, std::int64_t n) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += (y[i] != 0 ? 1 : 0) & (v[i] == 0 ? 1 : 0);
  return count;
}
NIBBLE_SIMD std::int64_t count_changed(const float* __restrict y, const float* __restrict clamped, std::int64_t n) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += y[i] - clamped[i] != 0 ? 1 : 0;
  return count;
}
NIBBLE_SIMD std::int64_t count_beyond(const float* __restrict y, float limit, std::int64_t n) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += float_abs(y[i]) > limit ? 1 : 0;
  return count;
}
NIBBLE_SIMD std::int64_t count_beyond(const float* __restrict y, const float* __restrict limit, std::int64_t n) {
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += float_abs(y[i]) > limit[i] ? 1 : 0;
  return count;
}

double sum_lanes(const double* lanes) {
  double sum = 0;
  for (int l = 0; l < Sums::kLanes; ++l) sum += lanes[l];
  return sum;
}

/// The blocks that the elements were scaled by: those of q, or of the elements behind another form.
class ElementBlocks {
 public:
  ElementBlocks(const QTensor& q, const QuantSpec& spec) : q_(q), max_(element_max(spec.element)) {
    behind_ = q.element_scales.defined();
    const Granularity blocks = behind_ ? q.element_granularity : q.granularity;
    rows_ = blocks.rows == 0 ? q.rows : blocks.rows;
    cols_ = blocks.cols == 0 ? q.cols : blocks.cols;
    count_ = (q.cols + cols_ - 1) / cols_;
  }

  bool any() const { return max_ > 0; }
  bool eight_bits() const {
    return !behind_ && (q_.scale_format == ScaleFormat::E8M0 || q_.scale_format == ScaleFormat::UE4M3);
  }
  std::int64_t rows() const { return rows_; }
  std::int64_t cols() const { return cols_; }
  std::int64_t count() const { return count_; }

  /// The largest magnitudes that the elements of a band's blocks reach. What is above them by rounding alone, as amax
  /// is above max * (amax / max), is not beyond.
  void limits(std::int64_t band, float* limit) const {
    if (behind_) {
      std::copy_n(q_.element_scales.data<float>() + band * count_, count_, limit);
    } else {
      quant_cpu::decode_scales(q_, band, limit);
    }
    const float tensor_scale = behind_ ? 1.0f : q_.tensor_scale;
    for (std::int64_t j = 0; j < count_; ++j) limit[j] *= tensor_scale * max_ * (1.0f + 0x1p-20f);
  }

  /// Counts the scales of 8 bits that did not fit their block.
  void count_scales(std::int64_t band, const AmaxBits* amax, const float* limit, QuantQuality& quality) const {
    const std::uint8_t* codes = q_.scales.data<std::uint8_t>() + band * count_;
    const bool e8m0 = q_.scale_format == ScaleFormat::E8M0;
    const int largest = e8m0 ? 254 : 0x7E;
    const int smallest = e8m0 ? 0 : 1;
    for (std::int64_t j = 0; j < count_; ++j) {
      const float value = quant_cpu::amax_value(amax[j]);
      // A scale that stands in for zero (Nvfp4Scale::zero_scale) is far above its block.
      const bool stands_in = !e8m0 && value < limit[j] / 16;
      quality.scale_saturated += codes[j] == largest && value > limit[j] ? 1 : 0;
      quality.scale_underflow += value != 0 && (codes[j] <= smallest || stands_in) ? 1 : 0;
    }
  }

 private:
  const QTensor& q_;
  float max_;
  bool behind_;
  std::int64_t rows_;
  std::int64_t cols_;
  std::int64_t count_;
};

/// y_c of rows, as the quantiser saw them, and how many entries the clamp changed.
class ClampedRows {
 public:
  ClampedRows(const Source& source, const Clamp& clamp, KeyBounds<std::int32_t> tensor_bounds)
      : clamp_(clamp),
        tensor_bounds_(tensor_bounds),
        cols_(source.cols()),
        read_(source),
        search_(clamp.enabled() ? clamp.alpha : 1.0, source.cols()),
        row_(static_cast<std::size_t>(cols_)),
        clamped_(static_cast<std::size_t>(clamp.enabled() ? cols_ : 0)),
        keys_(static_cast<std::size_t>(clamp.enabled() ? cols_ : 0)) {}

  const float* operator()(std::int64_t r, std::int64_t& changed) {
    const float* y = read_(r, row_.data());
    if (!clamp_.enabled()) return y;
    KeyBounds<std::int32_t> bounds = tensor_bounds_;
    if (clamp_.per_row) {
      quant_cpu::to_keys(y, cols_, keys_.data());
      bounds = search_(keys_.data());
    }
    quant_cpu::clamp_row(y, bounds, cols_, clamped_.data());
    changed += count_changed(y, clamped_.data(), cols_);
    return clamped_.data();
  }

 private:
  const Clamp& clamp_;
  KeyBounds<std::int32_t> tensor_bounds_;
  std::int64_t cols_;
  RowReader read_;
  quant_cpu::QuantileSearch<std::int32_t> search_;
  std::vector<float> row_;
  std::vector<float> clamped_;
  std::vector<std::int32_t> keys_;
};

/// Rows [begin, end), whole bands of blocks where these have scales of 8 bits.
QuantQuality measure_rows(const Source& exact, const Source& quantised, const QTensor& q, const QuantSpec& spec,
                          KeyBounds<std::int32_t> tensor_bounds, std::int64_t begin, std::int64_t end) {
  const std::int64_t n = q.cols;
  const ElementBlocks blocks(q, spec);
  const auto size = static_cast<std::size_t>(n);
  const auto count = static_cast<std::size_t>(blocks.count());
  RowReader read(exact);
  quant_cpu::RowDecoder decode(q);
  ClampedRows clamped(quantised, spec.clamp, tensor_bounds);
  std::vector<float> buffer(size), values(size), limit(count), column_limit(blocks.cols() < n ? size : 0);
  std::vector<AmaxBits> amax(count, 0);
  QuantQuality quality;
  Sums sums;
  std::int64_t band = -1;
  for (std::int64_t r = begin; r < end; ++r) {
    decode(r, values.data());
    quant_cpu::add_residual(q.residual, r, values.data());
    const float* y = read(r, buffer.data());
    add_row(y, values.data(), n, sums);
    quality.underflow += count_underflow(y, values.data(), n);
    // The row once more only where the quantiser saw another one.
    if (spec.bf16_input || spec.clamp.enabled()) y = clamped(r, quality.clamped);
    if (!blocks.any()) continue;
    if (r / blocks.rows() != band) {
      band = r / blocks.rows();
      blocks.limits(band, limit.data());
      if (blocks.cols() < n) quant_cpu::expand_blocks(limit.data(), blocks.cols(), n, column_limit.data());
      std::fill(amax.begin(), amax.end(), 0);
    }
    quality.clipped += blocks.cols() < n ? count_beyond(y, column_limit.data(), n) : count_beyond(y, limit[0], n);
    if (!blocks.eight_bits()) continue;
    quant_cpu::amax_of_blocks(y, n, blocks.cols(), amax.data());
    if (r + 1 == q.rows || (r + 1) / blocks.rows() != band)
      blocks.count_scales(band, amax.data(), limit.data(), quality);
  }
  quality.signal = sum_lanes(sums.signal);
  quality.noise = sum_lanes(sums.noise);
  quality.dot = sum_lanes(sums.dot);
  quality.quantised = sum_lanes(sums.quantised);
  quality.error = sum_lanes(sums.error);
  quality.magnitude = sum_lanes(sums.magnitude);
  quality.count = (end - begin) * n;
  return quality;
}

}  // namespace

QuantQuality cpu::measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec,
                                  const QuantizeContext& context, Arena& /*scratch*/) {
  const Source exact(x, false, context, spec.transposed, spec.hadamard);
  const Source quantised(x, spec.bf16_input, context, spec.transposed, spec.hadamard);
  require(exact.rows() == q.rows && exact.cols() == q.cols, "measure_quality of {} against a [{}, {}] QTensor",
          to_string(x), q.rows, q.cols);
  QuantQuality total;
  if (q.rows * q.cols == 0) return total;
  KeyBounds<std::int32_t> tensor_bounds;
  if (spec.clamp.enabled() && !spec.clamp.per_row) {
    tensor_bounds = quant_cpu::tensor_bounds(quantised, spec.clamp.alpha);
  }
  const ElementBlocks blocks(q, spec);
  const std::int64_t unit = std::max(blocks.eight_bits() ? blocks.rows() : 1, exact.row_group());
  const std::int64_t grain =
      (rows_per_chunk(q.cols * static_cast<std::int64_t>(sizeof(float))) + unit - 1) / unit * unit;
  std::vector<QuantQuality> chunks(static_cast<std::size_t>((q.rows + grain - 1) / grain));
  parallel_for(q.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    chunks[static_cast<std::size_t>(begin / grain)] =
        measure_rows(exact, quantised, q, spec, tensor_bounds, begin, end);
  });
  for (const QuantQuality& chunk : chunks) total.merge(chunk);
  if (q.residual.defined()) total.clamped = q.residual.nnz();
  if (blocks.any()) total.blocks = (q.rows + blocks.rows() - 1) / blocks.rows() * blocks.count();
  return total;
}

}  // namespace nibble
