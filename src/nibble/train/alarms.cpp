#include "nibble/train/alarms.h"

#include <algorithm>
#include <cmath>

namespace nibble {

namespace {

constexpr std::array<const char*, kAlarmKinds> kNames = {"underflow",      "clipped",       "scale_saturated",
                                                         "product_cosine", "oscillation",   "gradient_to_noise",
                                                         "loss_spike",     "gradient_spike"};

// An alarm clears below this share of its threshold, so that a figure on the threshold does not fire at every turn.
constexpr double kClears = 0.9;

double share(std::int64_t part, std::int64_t all) {
  return all == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(all);
}

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

/// Turns a figure into one that is the larger, the worse; its own inverse.
double badness(AlarmKind kind, double figure) {
  if (kind == AlarmKind::ProductCosine) return 1 - figure;
  if (kind == AlarmKind::GradientToNoise) return 1 / figure;
  return figure;
}

/// `where` names the worst layers; of a spike, the number of steps it is measured against.
std::string sentence(AlarmKind kind, const std::string& subject, double value, const std::string& where,
                     double threshold) {
  switch (kind) {
    case AlarmKind::Underflow:
      return fmt::format("{:.3g} % of the nonzero elements of {} became zero in {} (alarm above {:.3g} %)", 100 * value,
                         subject, where, 100 * threshold);
    case AlarmKind::Clipped:
      return fmt::format("{:.3g} % of the elements of {} were clipped in {} (alarm above {:.3g} %)", 100 * value,
                         subject, where, 100 * threshold);
    case AlarmKind::ScaleSaturated:
      return fmt::format(
          "{:.3g} % of the block scales of {} are at the top of their format in {} (alarm above {:.3g} %)", 100 * value,
          subject, where, 100 * threshold);
    case AlarmKind::ProductCosine:
      return fmt::format("the cosine between {} and the exact product fell to {:.4g} in {} (alarm below {:.4g})",
                         subject, value, where, threshold);
    case AlarmKind::Oscillation:
      return fmt::format("the quantised weight moves {:.3g} times as far as the weight in {} (alarm above {:.3g})",
                         value, where, threshold);
    case AlarmKind::GradientToNoise:
      return fmt::format(
          "the weight gradient is {:.4g} times its quantisation noise, less than {:.4g}: at this precision training "
          "stops improving",
          value, threshold);
    case AlarmKind::LossSpike:
    case AlarmKind::GradientSpike: break;
  }
  return fmt::format("the {} lies {:.3g} deviations above its median of the last {} steps (alarm above {:.3g})",
                     kind == AlarmKind::LossSpike ? "loss" : "gradient norm", value, where, threshold);
}

}  // namespace

const char* alarm_name(AlarmKind kind) { return kNames[static_cast<std::size_t>(kind)]; }

AlarmSettings read_alarm_settings(const ConfigTable& alarms) {
  AlarmSettings settings;
  for (std::size_t i = 0; i < kAlarmKinds; ++i) {
    settings.threshold[i] = alarms.number(kNames[i], settings.threshold[i], 0, 1e9);
  }
  const bool stop = alarms.boolean("stop", false);
  const bool chosen = alarms.has("stop_kinds");
  for (const std::string& name : alarms.texts("stop_kinds")) {
    const auto kind = std::find_if(kNames.begin(), kNames.end(), [&](const char* known) { return name == known; });
    if (kind == kNames.end()) {
      std::string allowed;
      for (const char* known : kNames) allowed += (allowed.empty() ? "" : ", ") + std::string(known);
      alarms.fail("stop_kinds", fmt::format("'{}' is not one of {}", name, allowed));
    }
    settings.stops[static_cast<std::size_t>(kind - kNames.begin())] = stop;
  }
  if (!chosen) settings.stops.fill(stop);
  alarms.finish();
  return settings;
}

std::string to_toml(const AlarmSettings& settings) {
  std::string text = "[alarms]\n";
  std::string kinds;
  for (std::size_t i = 0; i < kAlarmKinds; ++i) {
    text += fmt::format("{} = {}\n", kNames[i], settings.threshold[i]);
    if (settings.stops[i]) kinds += fmt::format("{}\"{}\"", kinds.empty() ? "" : ", ", kNames[i]);
  }
  text += fmt::format("stop = {}\n", !kinds.empty());
  return kinds.empty() ? text : text + fmt::format("stop_kinds = [{}]\n", kinds);
}

/// The layer with the largest figure, and how many more lie above the threshold.
struct Alarms::Worst {
  AlarmKind kind;
  double threshold;  // as badness
  double value = 0;  // as badness
  std::string layer{};
  int above = 0;

  Worst(AlarmKind k, const AlarmSettings& settings)
      : kind(k), threshold(badness(k, settings.threshold[static_cast<std::size_t>(k)])) {}
  void add(double figure, const std::string& name) {
    const double bad = badness(kind, figure);
    if (bad > threshold) ++above;
    if (!(bad > value)) return;
    value = bad;
    layer = name;
  }
  std::string where() const {
    return above < 2 ? layer : fmt::format("{} and {} more {}", layer, above - 1, above == 2 ? "layer" : "layers");
  }
};

bool Alarms::fires(AlarmKind kind, const std::string& subject, double value) {
  if (threshold(kind) <= 0) return false;
  const double bound = badness(kind, threshold(kind));
  const std::string name = subject.empty() ? alarm_name(kind) : fmt::format("{} {}", alarm_name(kind), subject);
  const auto place = std::lower_bound(state_.active.begin(), state_.active.end(), name);
  const bool active = place != state_.active.end() && *place == name;
  if (!active && value > bound) {
    state_.active.insert(place, name);
    return true;
  }
  if (active && value < kClears * bound) state_.active.erase(place);
  return false;
}

void Alarms::check_worst(const std::string& subject, const Worst& worst, std::vector<Alarm>& fired) {
  if (!fires(worst.kind, subject, worst.value)) return;
  fired.push_back({worst.kind, sentence(worst.kind, subject, badness(worst.kind, worst.value), worst.where(),
                                        threshold(worst.kind))});
}

void Alarms::check_spike(AlarmKind kind, double value, std::vector<double>& window, std::vector<Alarm>& fired) {
  if (window.size() >= kLeastSpikeWindow) {
    const double middle = median(window);
    std::vector<double> distances;
    distances.reserve(window.size());
    for (double v : window) distances.push_back(std::abs(v - middle));
    constexpr double kGaussian = 1.4826;  // 1 / (the 75 % quantile of the standard normal distribution)
    const double deviation = std::max({kGaussian * median(std::move(distances)), 0.01 * std::abs(middle), 1e-12});
    const double deviations = (value - middle) / deviation;
    if (fires(kind, "", deviations)) {
      fired.push_back({kind, sentence(kind, "", deviations, std::to_string(window.size()), threshold(kind))});
    }
  }
  if (window.size() == kSpikeWindow) window.erase(window.begin());
  window.push_back(value);
}

std::vector<Alarm> Alarms::check_step(double loss, double gradient_norm) {
  std::vector<Alarm> fired;
  check_spike(AlarmKind::LossSpike, loss, state_.losses, fired);
  check_spike(AlarmKind::GradientSpike, gradient_norm, state_.gradient_norms, fired);
  return fired;
}

std::vector<Alarm> Alarms::check_telemetry(const Telemetry& telemetry) {
  std::vector<Alarm> fired;
  for (Operand o : kAllOperands) {
    Worst underflow(AlarmKind::Underflow, settings_);
    Worst clipped(AlarmKind::Clipped, settings_);
    Worst saturated(AlarmKind::ScaleSaturated, settings_);
    for (const LayerTelemetry& layer : telemetry.layers) {
      if (layer.reused[static_cast<std::size_t>(o)]) continue;
      const QuantQuality& q = layer.operands[static_cast<std::size_t>(o)];
      underflow.add(share(q.underflow, q.count), layer.layer);
      clipped.add(share(q.clipped, q.count), layer.layer);
      saturated.add(share(q.scale_saturated, q.blocks), layer.layer);
    }
    for (const Worst* worst : {&underflow, &clipped, &saturated}) check_worst(operand_name(o), *worst, fired);
  }
  constexpr const char* kProducts[] = {"fprop", "dgrad", "wgrad"};
  for (std::size_t p = 0; p < std::size(kProducts); ++p) {
    Worst cosine(AlarmKind::ProductCosine, settings_);
    for (const LayerTelemetry& layer : telemetry.layers) {
      const bool is_estimate = p == 2 && layer.estimated_gradient;
      if (layer.products[p].count > 0 && !is_estimate) cosine.add(layer.products[p].cosine(), layer.layer);
    }
    check_worst(kProducts[p], cosine, fired);
  }
  Worst oscillation(AlarmKind::Oscillation, settings_);
  for (const LayerTelemetry& layer : telemetry.layers) {
    if (layer.oscillation) oscillation.add(layer.oscillation->ratio(), layer.layer);
  }
  check_worst("", oscillation, fired);
  if (const auto rho = telemetry.gradient_to_noise()) {
    Worst worst(AlarmKind::GradientToNoise, settings_);
    worst.add(*rho, "");
    check_worst("", worst, fired);
  }
  return fired;
}

}  // namespace nibble
