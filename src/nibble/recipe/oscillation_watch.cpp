#include "nibble/recipe/oscillation_watch.h"

#include <cmath>
#include <numeric>

#include "nibble/recipe/weight_passes.h"
#include "nibble/tensor/device.h"

namespace nibble {

OscillationWatch::OscillationWatch(const OscillationReset& spec, std::int64_t rows, std::int64_t cols, Device device)
    : spec_(spec) {
  require(spec.window >= 1 && spec.window <= spec.period, "an oscillation window of {} steps every {}", spec.window,
          spec.period);
  if (spec.criterion != OscillationReset::Criterion::Ratio) return;
  for (OwnedTensor* tensor : {&weight_way_, &quantised_way_, &last_weight_, &last_quantised_}) {
    *tensor = OwnedTensor(DType::F32, {rows, cols}, device);
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
                                       std::int64_t step, std::int64_t steps, const Tensor& flagged) {
  const Phase now = phase(step, steps);
  const bool ratio = spec_.criterion == OscillationReset::Criterion::Ratio;
  const auto threshold = static_cast<float>(spec_.threshold);
  if (ratio && now.watched) {
    add_way(w, last_weight_, weight_way_);
    add_way(quantised, last_quantised_, quantised_way_);
  }
  if (now.ends && ratio) {
    reset_by_ratio(w, quantised, weight_way_, quantised_way_, threshold, flagged);
    fill_zero(weight_way_);
    fill_zero(quantised_way_);
  } else if (now.ends) {
    reset_at_edge(w, quantised, scales, threshold, flagged);
  }
  if (ratio && now.begins) {
    convert(w, last_weight_);
    convert(quantised, last_quantised_);
  }
  if (!now.ends) return 0;
  const OwnedTensor counts = copy_to(flagged, Device::Cpu);
  const std::int32_t* count = counts.view().data<std::int32_t>();
  return std::accumulate(count, count + counts.view().numel(), std::int64_t{0});
}

void OscillationWatch::visit_state(const std::function<void(const std::string& name, const Tensor& tensor)>& f) {
  if (!weight_way_.view().defined()) return;
  f("weight_way", weight_way_);
  f("quantised_way", quantised_way_);
  f("last_weight", last_weight_);
  f("last_quantised", last_quantised_);
}

}  // namespace nibble
