#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "nibble/quant/backend.h"
#include "nibble/quant/cpu/clamp.h"
#include "nibble/quant/cpu/decode.h"
#include "nibble/quant/cpu/multiplier.h"
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
  count += other.count;
  underflow += other.underflow;
  clamped += other.clamped;
}

namespace {

using quant_cpu::KeyBounds;
using quant_cpu::Source;

/// Sums in a fixed number of lanes, so that vectors of any width add in the same order.
struct Sums {
  static constexpr int kLanes = 8;
  double signal[kLanes] = {};
  double noise[kLanes] = {};
  double dot[kLanes] = {};
  double quantised[kLanes] = {};
  std::int64_t underflow = 0;
};

/// Lane l of the sums takes entry l of y and v.
NIBBLE_INLINE void add_entry(Sums& s, int l, float y, float v) {
  const double a = static_cast<double>(y);
  const double b = static_cast<double>(v);
  s.signal[l] += a * a;
  s.noise[l] += (a - b) * (a - b);
  s.dot[l] += a * b;
  s.quantised[l] += b * b;
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

double sum_lanes(const double* lanes) {
  double sum = 0;
  for (int l = 0; l < Sums::kLanes; ++l) sum += lanes[l];
  return sum;
}

/// Entries of a row that the bounds change.
std::int64_t count_clamped(const float* y, KeyBounds<std::int32_t> bounds, std::int64_t n, float* buffer) {
  quant_cpu::clamp_row(y, bounds, n, buffer);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < n; ++i) count += y[i] - buffer[i] != 0 ? 1 : 0;
  return count;
}

}  // namespace

QuantQuality cpu::measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec,
                                  const QuantizeContext& context, Arena& /*scratch*/) {
  require(x.rows() == q.rows && x.cols() == q.cols, "measure_quality of {} against a [{}, {}] QTensor", to_string(x),
          q.rows, q.cols);
  const std::int64_t n = q.cols;
  QuantQuality total;
  if (q.rows * n == 0) return total;
  const Source exact(x, false, context);
  const Source quantised(x, spec.bf16_input, context);
  const bool recount = spec.clamp.enabled() && !q.residual.defined();
  KeyBounds<std::int32_t> tensor_bounds;
  if (recount && !spec.clamp.per_row) tensor_bounds = quant_cpu::tensor_bounds(quantised, spec.clamp.alpha);

  const std::int64_t grain = rows_per_chunk(n * static_cast<std::int64_t>(sizeof(float)));
  std::vector<QuantQuality> chunks(static_cast<std::size_t>((q.rows + grain - 1) / grain));
  parallel_for(q.rows, grain, [&](std::int64_t begin, std::int64_t end) {
    quant_cpu::RowDecoder decode(q);
    quant_cpu::QuantileSearch<std::int32_t> search(recount ? spec.clamp.alpha : 1.0, n);
    std::vector<float> buffer(static_cast<std::size_t>(n));
    std::vector<float> values(static_cast<std::size_t>(n));
    std::vector<std::int32_t> keys(static_cast<std::size_t>(recount ? n : 0));
    QuantQuality& chunk = chunks[static_cast<std::size_t>(begin / grain)];
    Sums sums;
    for (std::int64_t r = begin; r < end; ++r) {
      decode(r, values.data());
      quant_cpu::add_residual(q.residual, r, values.data());
      const float* y = exact.row(r, buffer.data());
      add_row(y, values.data(), n, sums);
      sums.underflow += count_underflow(y, values.data(), n);
      if (!recount) continue;
      y = quantised.row(r, buffer.data());
      KeyBounds<std::int32_t> bounds = tensor_bounds;
      if (spec.clamp.per_row) {
        quant_cpu::to_keys(y, n, keys.data());
        bounds = search(keys.data());
      }
      chunk.clamped += count_clamped(y, bounds, n, values.data());
    }
    chunk.signal = sum_lanes(sums.signal);
    chunk.noise = sum_lanes(sums.noise);
    chunk.dot = sum_lanes(sums.dot);
    chunk.quantised = sum_lanes(sums.quantised);
    chunk.count = (end - begin) * n;
    chunk.underflow = sums.underflow;
  });
  for (const QuantQuality& chunk : chunks) total.merge(chunk);
  if (q.residual.defined()) total.clamped = q.residual.nnz();
  return total;
}

}  // namespace nibble
