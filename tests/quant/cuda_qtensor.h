// QTensors and contexts of the CPU on the GPU, so that tests of what reads them need no quantiser there.
#pragma once

#include <vector>

#include "nibble/quant/quantize.h"
#include "tests/cuda_testing.h"

namespace nibble::testing_support {

/// A QTensor whose tensors lie on the GPU, with their memory.
class GpuQTensor {
 public:
  explicit GpuQTensor(const QTensor& from) : q(from) {
    for (Tensor* part : {&q.codes, &q.scales, &q.device_scale, &q.outer_scales, &q.mask, &q.residual.row_begin,
                         &q.residual.col, &q.residual.value, &q.element_scales}) {
      if (part->defined()) *part = keep(on_gpu(*part));
    }
  }

  /// Moves the tensor scale to the device, where the GPU's quantiser leaves that of Nvfp4.
  void put_tensor_scale_on_device() {
    OwnedTensor scale(DType::F32, {1});
    scale.view().data<float>()[0] = q.tensor_scale;
    q.device_scale = keep(on_gpu(scale));
    q.tensor_scale = 1.0f;
  }

  QTensor q;

 private:
  Tensor keep(OwnedTensor tensor) {
    memory_.push_back(std::move(tensor));
    return memory_.back();
  }
  std::vector<OwnedTensor> memory_;
};

/// A copy as the GPU's quantiser leaves it: the second level of Nvfp4 in device_scale.
inline GpuQTensor as_quantised_on_gpu(const QTensor& q) {
  GpuQTensor there(q);
  if (q.scale_format == ScaleFormat::UE4M3 && !q.outer_scales.defined()) there.put_tensor_scale_on_device();
  return there;
}

/// A context whose tensors lie on the GPU, with their memory.
class GpuContext {
 public:
  explicit GpuContext(const QuantizeContext& context) : context_(context) {
    int i = 0;
    for (Tensor* part : {&context_.row_fold, &context_.col_fold, &context_.reference}) {
      if (!part->defined() || part->numel() == 0) continue;
      memory_[i] = on_gpu(*part);
      *part = memory_[i++];
    }
  }
  const QuantizeContext& operator*() const { return context_; }

 private:
  QuantizeContext context_;
  OwnedTensor memory_[3];
};

/// A part of a QTensor on the GPU has the bits of `want`, or both lack it.
inline void expect_same_part(const Tensor& want, const Tensor& got, const char* what) {
  ASSERT_EQ(want.defined(), got.defined()) << what;
  if (!want.defined()) return;
  ASSERT_EQ(got.device(), Device::Cuda) << what;
  ASSERT_EQ(want.rows(), got.rows()) << what;
  ASSERT_EQ(want.cols(), got.cols()) << what;
  if (want.numel() > 0) expect_same_bits(want, got, what);
}

/// The factor on everything, wherever it is.
inline float whole_scale(const QTensor& q) {
  if (!q.device_scale.defined()) return q.tensor_scale;
  return q.tensor_scale * on_cpu(q.device_scale).view().data<float>()[0];
}

}  // namespace nibble::testing_support
