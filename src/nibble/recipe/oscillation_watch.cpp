#include "nibble/recipe/oscillation_watch.h"

#include <cmath>

#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble {

namespace {

NIBBLE_SIMD void add_way(const float* now, float* last, float* way, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) {
    way[i] += std::abs(now[i] - last[i]);
    last[i] = now[i];
  }
}

NIBBLE_SIMD std::int64_t reset_by_ratio(float* w, const float* quantised, const float* weight_way,
                                        const float* quantised_way, float threshold, std::int64_t n) {
  std::int32_t flagged = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    const bool flag = (quantised_way[i] > 0) & (quantised_way[i] >= threshold * weight_way[i]);
    w[i] = flag ? quantised[i] : w[i];
    flagged += flag ? 1 : 0;
  }
  return flagged;
}

/// Width of the set of values that round to an E2M1 value: half of the steps to its neighbours on either side.
[[gnu::always_inline]] inline float bin_width(float magnitude) {
  return magnitude < 1.75f ? 0.5f : magnitude < 2.5f ? 0.75f : magnitude < 3.5f ? 1.0f : magnitude < 5.0f ? 1.5f : 2.0f;
}

NIBBLE_SIMD std::int64_t reset_at_edge(float* w, const float* quantised, const float* scale, float threshold,
                                       std::int64_t n) {
  std::int32_t flagged = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    // A scale of zero decodes to zero whatever the code: there is no bin to be at the edge of.
    const float inverse = scale[i] > 0 ? 1.0f / scale[i] : 0.0f;
    const float q = quantised[i] * inverse;
    const bool flag = std::abs(w[i] * inverse - q) > threshold * bin_width(std::abs(q));
    w[i] = flag ? quantised[i] : w[i];
    flagged += flag ? 1 : 0;
  }
  return flagged;
}

}  // namespace

OscillationWatch::OscillationWatch(const OscillationReset& spec, std::int64_t rows, std::int64_t cols) : spec_(spec) {
  require(spec.window >= 1 && spec.window <= spec.period, "an oscillation window of {} steps every {}", spec.window,
          spec.period);
  if (spec.criterion != OscillationReset::Criterion::Ratio) return;
  for (OwnedTensor* tensor : {&weight_way_, &quantised_way_, &last_weight_, &last_quantised_}) {
    *tensor = OwnedTensor(DType::F32, {rows, cols});
  }
}

OscillationWatch::Phase OscillationWatch::phase(std::int64_t step, std::int64_t steps) const {
  if (!spec_.enabled()) return {};
  const auto start = static_cast<std::int64_t>(std::floor(spec_.start_fraction * static_cast<double>(steps)));
  const std::int64_t since = step - start;
  if (since < 0) return {};
  const std::int64_t in_period = since == 0 ? 0 : (since - 1) % spec_.period + 1;  // 1 to period
  Phase phase;
  phase.begins = since % spec_.period == 0;
  phase.watched = in_period >= 1 && in_period <= spec_.window;
  phase.ends = in_period == spec_.window;
  return phase;
}

bool OscillationWatch::wants(std::int64_t step, std::int64_t steps) const {
  const Phase now = phase(step, steps);
  return now.ends || (spec_.criterion == OscillationReset::Criterion::Ratio && (now.begins || now.watched));
}

std::int64_t OscillationWatch::observe(const Tensor& w, const Tensor& quantised, const Tensor& scales,
                                       std::int64_t step, std::int64_t steps, std::vector<std::uint8_t>& changed) {
  const Phase now = phase(step, steps);
  const bool ratio = spec_.criterion == OscillationReset::Criterion::Ratio;
  const auto threshold = static_cast<float>(spec_.threshold);
  const std::int64_t cols = w.cols();
  changed.assign(static_cast<std::size_t>(w.rows()), 0);
  std::vector<std::int64_t> flagged(static_cast<std::size_t>(w.rows()));
  parallel_for(w.rows(), rows_per_chunk(cols * static_cast<std::int64_t>(sizeof(float))),
               [&](std::int64_t begin, std::int64_t end) {
                 for (std::int64_t r = begin; r < end; ++r) {
                   const std::int64_t at = r * cols;
                   float* row = w.data<float>() + at;
                   const float* q = quantised.data<float>() + at;
                   std::int64_t& count = flagged[static_cast<std::size_t>(r)];
                   if (!ratio) {
                     if (now.ends) count = reset_at_edge(row, q, scales.data<float>() + at, threshold, cols);
                     continue;
                   }
                   float* weight_way = weight_way_.view().data<float>() + at;
                   float* quantised_way = quantised_way_.view().data<float>() + at;
                   float* last_weight = last_weight_.view().data<float>() + at;
                   float* last_quantised = last_quantised_.view().data<float>() + at;
                   if (now.watched) {
                     add_way(row, last_weight, weight_way, cols);
                     add_way(q, last_quantised, quantised_way, cols);
                   }
                   if (now.ends) {
                     count = reset_by_ratio(row, q, weight_way, quantised_way, threshold, cols);
                     std::fill_n(weight_way, cols, 0.0f);
                     std::fill_n(quantised_way, cols, 0.0f);
                   }
                   if (now.begins) {
                     std::copy_n(row, cols, last_weight);
                     std::copy_n(q, cols, last_quantised);
                   }
                 }
               });
  std::int64_t total = 0;
  for (std::size_t r = 0; r < flagged.size(); ++r) {
    changed[r] = flagged[r] > 0 ? 1 : 0;
    total += flagged[r];
  }
  return total;
}

void OscillationWatch::visit_state(const std::function<void(const std::string& name, const Tensor& tensor)>& f) {
  if (!weight_way_.view().defined()) return;
  f("weight_way", weight_way_);
  f("quantised_way", quantised_way_);
  f("last_weight", last_weight_);
  f("last_quantised", last_quantised_);
}

}  // namespace nibble
