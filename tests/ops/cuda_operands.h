// Quantised operands on the GPU, moved there part by part, so that tests of products do not depend on the GPU's
// quantiser.
#pragma once

#include <list>

#include "nibble/ops/gemm.h"
#include "nibble/tensor/device.h"

namespace nibble::testing {

/// A QTensor whose tensors lie on the GPU, with their memory.
class GpuOperand {
 public:
  explicit GpuOperand(const QTensor& from) : q(from) {
    for (Tensor* part : {&q.codes, &q.scales, &q.device_scale, &q.outer_scales, &q.mask, &q.residual.row_begin,
                         &q.residual.col, &q.residual.value, &q.element_scales}) {
      if (!part->defined()) continue;
      memory_.push_back(copy_to(*part, Device::Cuda));
      *part = memory_.back();
    }
  }
  GpuOperand(const GpuOperand&) = delete;
  GpuOperand& operator=(const GpuOperand&) = delete;

  /// Moves the tensor scale to the device, where the GPU's quantiser leaves that of Nvfp4.
  void put_tensor_scale_on_device() {
    OwnedTensor scale(DType::F32, {1});
    scale.view().data<float>()[0] = q.tensor_scale;
    memory_.push_back(copy_to(scale, Device::Cuda));
    q.device_scale = memory_.back();
    q.tensor_scale = 1.0f;
  }

  QTensor q;

 private:
  std::list<OwnedTensor> memory_;
};

}  // namespace nibble::testing
