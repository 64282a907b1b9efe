#include "nibble/tensor/staging.h"

#include "nibble/tensor/cuda/staging.h"
#include "nibble/tensor/device.h"

namespace nibble {

Staging::Staging(Device device)
    : device_(device), pinned_(device == Device::Cuda ? std::make_unique<cuda::PinnedCopy>() : nullptr) {}

Staging::~Staging() = default;

void Staging::send(const Tensor& from, const Tensor& to) {
  require(from.device() == Device::Cpu && to.device() == device_ && from.dtype() == to.dtype() &&
              from.numel() == to.numel(),
          "sending {} to {}", to_string(from), to_string(to));
  begun_ = {};
  if (pinned_ == nullptr) return copy(from, to);
  pinned_->to_device(from.raw(), to.raw(), from.bytes());
}

void Staging::begin_read(const Tensor& from) {
  require(from.device() == device_, "reading {} from {}", to_string(from), device_name(device_));
  begun_ = Tensor(nullptr, from.dtype(), from.shape());
  if (pinned_ != nullptr) return pinned_->begin_to_host(from.raw(), from.bytes());
  if (here_.bytes() < from.bytes()) here_ = Buffer(from.bytes());
  copy(from, Tensor(here_.data(), from.dtype(), from.shape()));
}

Tensor Staging::read() {
  require(begun_.defined(), "nothing is being read from {}", device_name(device_));
  void* memory = pinned_ != nullptr ? pinned_->wait() : here_.data();
  return Tensor(memory, begun_.dtype(), begun_.shape());
}

}  // namespace nibble
