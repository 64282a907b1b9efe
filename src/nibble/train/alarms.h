// Alarms: a sentence in the log when training or quantisation leaves what is healthy. An alarm fires once, and again
// only after it has cleared.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

#include "nibble/io/config_table.h"
#include "nibble/train/telemetry.h"

namespace nibble {

/// What is watched. The first five look at every layer and fire once for all layers of an operand or product.
enum class AlarmKind : std::uint8_t {
  Underflow,        ///< share of an operand's nonzero elements that became zero
  Clipped,          ///< share of an operand's elements beyond the largest value of their block
  ScaleSaturated,   ///< share of an operand's block scales at the top of their format
  ProductCosine,    ///< cosine between a product and that of unquantised operands; fires below its threshold
  Oscillation,      ///< sum |delta Q(w)| / sum |delta w| of a layer
  GradientToNoise,  ///< rho of all quantised layers; fires below its threshold
  LossSpike,        ///< robust deviations of the loss above the median of the last kSpikeWindow steps
  GradientSpike,    ///< the same of the gradient norm
};
inline constexpr std::size_t kAlarmKinds = 8;
const char* alarm_name(AlarmKind kind);  ///< "underflow", ...: the key in [alarms]

/// The table [alarms] of a training configuration.
struct AlarmSettings {
  /// 0 = off. An alarm clears when the figure (of the cosine 1 - cosine, of rho 1 / rho) has fallen below nine tenths
  /// of its threshold.
  ///   underflow          0.6      per-tensor FP4 loses a third of a Gaussian; beyond this little of an operand is left
  ///   clipped            0.2      blocks whose scale is rounded down clip their maximum, one element in 16; QuEST up
  ///                               to 14 % by design
  ///   scale_saturated    0.01
  ///   product_cosine     0.5      two FP4 operands with stochastic rounding have 0.97; below, most of it is noise
  ///   oscillation        16       where the released TetraJet-v2 resets a weight
  ///   gradient_to_noise  sqrt(3)  "FP4 All the Way", section 4
  ///   loss_spike         8        deviations
  ///   gradient_spike     20       gradient norms have a long upper tail, longer the smaller the batch
  std::array<double, kAlarmKinds> threshold = {0.6, 0.2, 0.01, 0.5, 16, 1.7320508075688772, 8, 20};
  /// An alarm of these kinds stops the run after a checkpoint.
  std::array<bool, kAlarmKinds> stops{};
};
AlarmSettings read_alarm_settings(const ConfigTable& alarms);
std::string to_toml(const AlarmSettings& settings);

/// Steps that a spike is measured against, and the least number of them.
inline constexpr std::size_t kSpikeWindow = 64;
inline constexpr std::size_t kLeastSpikeWindow = 32;

/// Part of every checkpoint, so that a resumed run raises the same alarms.
struct AlarmState {
  std::vector<std::string> active;     ///< sorted: "underflow fprop.x", "loss_spike"
  std::vector<double> losses;          ///< of the last kSpikeWindow steps
  std::vector<double> gradient_norms;  ///< of the same
};

struct Alarm {
  AlarmKind kind;
  std::string sentence;
};

class Alarms {
 public:
  explicit Alarms(const AlarmSettings& settings) : settings_(settings) {}

  /// What fires with a step's loss and gradient norm. A value is a spike when it lies more than threshold deviations
  /// above the median of the window, a deviation being 1.4826 times the median absolute deviation (the standard
  /// deviation, if the values are Gaussian) and at least one per cent of the median.
  std::vector<Alarm> check_step(double loss, double gradient_norm);
  /// What fires with a measurement.
  std::vector<Alarm> check_telemetry(const Telemetry& telemetry);

  bool stops(const Alarm& alarm) const { return settings_.stops[static_cast<std::size_t>(alarm.kind)]; }
  const AlarmState& state() const { return state_; }
  void restore(AlarmState state) { state_ = std::move(state); }

 private:
  struct Worst;
  double threshold(AlarmKind kind) const { return settings_.threshold[static_cast<std::size_t>(kind)]; }
  /// Value and threshold as badness: the larger, the worse.
  bool fires(AlarmKind kind, const std::string& subject, double value);
  void check_worst(const std::string& subject, const Worst& worst, std::vector<Alarm>& fired);
  void check_spike(AlarmKind kind, double value, std::vector<double>& window, std::vector<Alarm>& fired);

  AlarmSettings settings_;
  AlarmState state_;
};

}  // namespace nibble
