// QTensors of the CPU on the GPU, so that tests of what reads them need no quantiser there.
#pragma once

#include <vector>

#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"

namespace nibble::testing_support {

/// A copy on the GPU, the second level of Nvfp4 where the GPU's quantiser keeps it: in device_scale.
class GpuQTensor {
 public:
  explicit GpuQTensor(const QTensor& q) : q_(q) {
    for (Tensor* part : {&q_.codes, &q_.scales, &q_.outer_scales, &q_.mask, &q_.element_scales, &q_.residual.row_begin,
                         &q_.residual.col, &q_.residual.value}) {
      if (part->defined()) *part = keep(on_gpu(*part));
    }
    if (q.scale_format != ScaleFormat::UE4M3 || q.outer_scales.defined()) return;
    OwnedTensor scale(DType::F32, {1});
    scale.view().data<float>()[0] = q.tensor_scale;
    q_.device_scale = keep(on_gpu(scale));
    q_.tensor_scale = 1.0f;
  }
  const QTensor& operator*() const { return q_; }

 private:
  Tensor keep(OwnedTensor tensor) {
    memory_.push_back(std::move(tensor));
    return memory_.back();
  }
  QTensor q_;
  std::vector<OwnedTensor> memory_;
};

}  // namespace nibble::testing_support
