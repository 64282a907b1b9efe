// An operand of the CPU on the GPU, moved there part by part: for self-tests, which must not depend on the GPU's
// quantiser.
#pragma once

#include <list>

#include "nibble/quant/qtensor.h"
#include "nibble/tensor/device.h"

namespace nibble {

class DeviceOperand {
 public:
  /// With `device_scale`, the tensor scale becomes a number of the device, where the GPU's quantiser leaves that of
  /// Nvfp4.
  explicit DeviceOperand(const QTensor& from, bool device_scale = false) : q_(from) {
    for (Tensor* part : {&q_.codes, &q_.scales, &q_.outer_scales}) {
      if (part->defined()) *part = keep(*part);
    }
    if (!device_scale) return;
    OwnedTensor scale(DType::F32, {1});
    scale.view().data<float>()[0] = q_.tensor_scale;
    q_.device_scale = keep(scale);
    q_.tensor_scale = 1.0f;
  }
  DeviceOperand(const DeviceOperand&) = delete;
  DeviceOperand& operator=(const DeviceOperand&) = delete;

  const QTensor& q() const { return q_; }

 private:
  Tensor keep(const Tensor& x) {
    memory_.push_back(copy_to(x, Device::Cuda));
    return memory_.back();
  }

  QTensor q_;
  std::list<OwnedTensor> memory_;
};

}  // namespace nibble
