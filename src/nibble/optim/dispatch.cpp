// The public functions of the room: the backend of the tensor's device does the work.
#include "nibble/optim/backend.h"

namespace nibble {

namespace {

bool on_gpu(const Tensor& tensor) { return tensor.device() == Device::Cuda; }

}  // namespace

void adamw_step(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v, const AdamWStep& step) {
  on_gpu(param) ? cuda::adamw_step(param, grad, m, v, step) : cpu::adamw_step(param, grad, m, v, step);
}

void adamw_fp8_step(const Tensor& param, const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m,
                    const ScaledTensor& v, const AdamWStep& step, Arena& scratch) {
  on_gpu(param) ? cuda::adamw_fp8_step(param, grad, master, m, v, step, scratch)
                : cpu::adamw_fp8_step(param, grad, master, m, v, step, scratch);
}

void scaled_store(const Tensor& x, const ScaledTensor& to) {
  on_gpu(x) ? cuda::scaled_store(x, to) : cpu::scaled_store(x, to);
}

void scaled_load(const ScaledTensor& from, const Tensor& x) {
  on_gpu(x) ? cuda::scaled_load(from, x) : cpu::scaled_load(from, x);
}

}  // namespace nibble
