#include "nibble/recipe/outlier_channels.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "nibble/ops/reduce.h"
#include "nibble/recipe/columns.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace {

std::int64_t chosen_count(const OutlierChannels& spec, std::int64_t channels) {
  require(spec.multiple >= 1, "outlier channels in multiples of {}", spec.multiple);
  const auto share = static_cast<std::int64_t>(std::ceil(spec.share * static_cast<double>(channels)));
  return std::min(channels, (share + spec.multiple - 1) / spec.multiple * spec.multiple);
}

}  // namespace

OutlierSelection::OutlierSelection(const OutlierChannels& spec, std::int64_t channels, Device device)
    : spec_(spec),
      norms_(DType::F32, {channels}, device),
      observed_(DType::F32, {channels}, device),
      channels_(DType::I32, {chosen_count(spec, channels)}, device) {
  const std::vector<std::int32_t> none(static_cast<std::size_t>(channels_.view().numel()), -1);
  copy(Tensor::of(none.data(), {channels_.view().numel()}), channels_);
}

bool OutlierSelection::chosen() const {
  if (!channels_.view().defined() || channels_.view().numel() == 0) return false;
  if (!chosen_.has_value()) {
    std::int32_t first = -1;
    copy(Tensor(channels_.view().raw(), DType::I32, {1}, channels_.view().device()), Tensor::of(&first, {1}));
    chosen_ = first >= 0;
  }
  return *chosen_;
}

void OutlierSelection::observe(const Tensor& x, std::int64_t step) {
  if (!spec_.enabled() || step < spec_.first_step || step > spec_.last_step) return;
  add_column_squares(x, observed_);
}

Tensor OutlierSelection::observed() const { return spec_.enabled() && !chosen() ? observed_.view() : Tensor(); }

void OutlierSelection::finish_step(std::int64_t step) {
  if (!spec_.enabled() || chosen()) return;
  add_in_place(norms_, observed_);
  fill_zero(observed_);
  if (step < spec_.last_step) return;
  const OwnedTensor norms = copy_to(norms_, Device::Cpu);
  const float* norm = norms.view().data<float>();
  const std::int64_t channels = norms.view().numel();
  if (std::all_of(norm, norm + channels, [](float n) { return n == 0; })) return;
  std::vector<std::int32_t> order(static_cast<std::size_t>(channels));
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](std::int32_t a, std::int32_t b) { return norm[a] > norm[b]; });
  order.resize(static_cast<std::size_t>(channels_.view().numel()));
  std::sort(order.begin(), order.end());
  copy(Tensor::of(order.data(), {channels_.view().numel()}), channels_);
  chosen_.reset();
}

Tensor OutlierSelection::others(Arena& arena) const {
  const Tensor factors = arena.allocate(DType::F32, {norms_.view().numel()});
  hiding_factors(channels(), factors);
  return factors;
}

void OutlierSelection::visit_state(const std::function<void(const std::string& name, const Tensor& tensor)>& f) {
  if (!spec_.enabled()) return;
  f("outlier_norms", norms_);
  f("outlier_channels", channels_);
  chosen_.reset();
}

}  // namespace nibble
