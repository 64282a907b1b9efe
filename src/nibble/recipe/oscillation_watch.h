// OsciReset of TetraJet-v2 (arXiv 2510.27527): weights that flip between two grid points are set to their quantised
// value.
#pragma once

#include <functional>

#include "nibble/recipe/recipe.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// Watches one weight matrix. With s0 = floor(start_fraction * steps), window i watches what steps s0 + i * period + 1
/// to s0 + i * period + window change, and resets after the last of them:
///
///   Ratio   where sum |Q(w_t) - Q(w_t-1)| >= threshold * sum |w_t - w_t-1| over the window, and Q(w) moved at all
///   Edge    where |w / s - q| > threshold * (width of q's bin): .5 for |q| <= 1.5, .75, 1, 1.5, 2 for 2, 3, 4, 6;
///           looks at the last step's weights alone
///
/// A watch that begins amid a window has both ways start at zero: W's whole length counts, so little is flagged in it.
class OscillationWatch {
 public:
  OscillationWatch() = default;  ///< never resets
  OscillationWatch(const OscillationReset& spec, std::int64_t rows, std::int64_t cols, Device device = Device::Cpu);

  bool enabled() const { return spec_.enabled(); }
  /// Whether `observe` has something to do after step `step` of `steps`.
  bool wants(std::int64_t step, std::int64_t steps) const;
  /// Whether `observe` reads the scales.
  bool wants_scales() const { return spec_.criterion == OscillationReset::Criterion::Edge; }
  /// w as step `step` left it, Q(w), and the decode scale of every element (undefined unless wants_scales()), all F32
  /// [rows, cols] on the watch's device. Once a window: sets the flagged elements of w to Q(w), counts those of each
  /// row in `flagged` (I32 [rows]; untouched in other steps) and returns how many there were in all.
  std::int64_t observe(const Tensor& w, const Tensor& quantised, const Tensor& scales, std::int64_t step,
                       std::int64_t steps, const Tensor& flagged);

  void visit_state(const std::function<void(const std::string& name, const Tensor& tensor)>& f);

 private:
  struct Phase {
    bool begins = false;   // the next step is the first of a window: remember where it starts from
    bool watched = false;  // this step belongs to a window
    bool ends = false;     // and is its last
  };
  Phase phase(std::int64_t step, std::int64_t steps) const;

  OscillationReset spec_;
  // Ratio: F32 [rows, cols]. Way of w and of Q(w) since the window began, and where they were after the last step.
  OwnedTensor weight_way_, quantised_way_, last_weight_, last_quantised_;
};

}  // namespace nibble
