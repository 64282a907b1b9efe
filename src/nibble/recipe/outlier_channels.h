// OutControl of TetraJet-v2 (arXiv 2510.27527): which channels of a layer's X are outliers.
#pragma once

#include <functional>
#include <optional>

#include "nibble/recipe/recipe.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// The choice of one layer and the figures that it is made by. Squared norms of the channels are summed over the steps
/// from first_step to last_step, a step's own sum first, which ranks can add up between them; then the top `share` of
/// the channels, their number rounded up to `multiple` and at most all, is chosen for good. Equal norms: the lower
/// channel wins. Nothing is chosen from norms that are all zero.
class OutlierSelection {
 public:
  OutlierSelection() = default;  ///< never chooses
  OutlierSelection(const OutlierChannels& spec, std::int64_t channels, Device device = Device::Cpu);

  /// Counts x [T, K] (F32 or BF16), part of step `step`'s batch.
  void observe(const Tensor& x, std::int64_t step);
  /// What `observe` has counted of the present step, F32 [K]: zero between steps. Undefined where nothing is counted
  /// any more.
  Tensor observed() const;
  /// Takes the step's counts into the sums; chooses, once `step` has reached last_step.
  void finish_step(std::int64_t step);

  bool chosen() const;
  /// I32 [m] on the device that was given, ascending; all -1 before the choice.
  const Tensor& channels() const { return channels_.view(); }
  /// F32 [K]: 0 for a chosen channel, else 1. As a factor of the columns it hides the channels from a quantiser.
  Tensor others(Arena& arena) const;

  void visit_state(const std::function<void(const std::string& name, const Tensor& tensor)>& f);

 private:
  OutlierChannels spec_;
  OwnedTensor norms_;     // F32 [K], squared
  OwnedTensor observed_;  // F32 [K], of this step
  OwnedTensor channels_;  // I32 [m]
  // Whether channels_ holds a choice. Asked of the device once, and again when a checkpoint may have been read into it.
  mutable std::optional<bool> chosen_;
};

}  // namespace nibble
