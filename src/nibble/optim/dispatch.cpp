// The public functions of the room: what a call must satisfy on every device is checked here, then the backend of the
// tensor's device does the work.
#include "nibble/optim/backend.h"

namespace nibble {

namespace {

bool on_gpu(const Tensor& tensor) { return tensor.device() == Device::Cuda; }

void require_scaled(const ScaledTensor& s) {
  require(s.data.dtype() == DType::U8 || s.data.dtype() == DType::F16, "a scaled tensor holds U8 (E4M3) or F16, not {}",
          to_string(s.data));
}

}  // namespace

void adamw_step(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v, const AdamWStep& step) {
  const std::int64_t n = param.numel();
  require(grad.numel() == n && m.numel() == n && v.numel() == n, "adamw_step: param {}, grad {}, m {}, v {}",
          to_string(param), to_string(grad), to_string(m), to_string(v));
  on_gpu(param) ? cuda::adamw_step(param, grad, m, v, step) : cpu::adamw_step(param, grad, m, v, step);
}

void adamw_fp8_measure(const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m, const ScaledTensor& v,
                       const AdamWStep& step, const Tensor& amax) {
  const std::int64_t n = grad.numel();
  require(master.data.numel() == n && m.data.numel() == n && v.data.numel() == n && amax.numel() == 3,
          "adamw_fp8_measure: grad {}, master {}, m {}, v {}, amax {}", to_string(grad), to_string(master.data),
          to_string(m.data), to_string(v.data), to_string(amax));
  if (n == 0) return;
  on_gpu(grad) ? cuda::adamw_fp8_measure(grad, master, m, v, step, amax)
               : cpu::adamw_fp8_measure(grad, master, m, v, step, amax);
}

void adamw_fp8_store(const Tensor& param, const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m,
                     const ScaledTensor& v, const AdamWStep& step, const Tensor& amax, Arena& scratch) {
  const std::int64_t n = param.numel();
  require(grad.numel() == n && master.data.numel() == n && m.data.numel() == n && v.data.numel() == n,
          "adamw_fp8_store: param {}, grad {}, master {}, m {}, v {}", to_string(param), to_string(grad),
          to_string(master.data), to_string(m.data), to_string(v.data));
  on_gpu(param) ? cuda::adamw_fp8_store(param, grad, master, m, v, step, amax, scratch)
                : cpu::adamw_fp8_store(param, grad, master, m, v, step, amax, scratch);
}

void adamw_fp8_step(const Tensor& param, const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m,
                    const ScaledTensor& v, const AdamWStep& step, Arena& scratch) {
  const ArenaScope scope(scratch);
  const Tensor amax = scratch.allocate(DType::I32, {3});
  fill_zero(amax);
  adamw_fp8_measure(grad, master, m, v, step, amax);
  adamw_fp8_store(param, grad, master, m, v, step, amax, scratch);
}

void scaled_store(const Tensor& x, const ScaledTensor& to) {
  require(to.data.numel() == x.numel(), "scaled_store: {} into {}", to_string(x), to_string(to.data));
  require_scaled(to);
  on_gpu(x) ? cuda::scaled_store(x, to) : cpu::scaled_store(x, to);
}

void scaled_measure(const Tensor& x, const Tensor& amax) {
  require(amax.numel() == 1, "scaled_measure: {} into {}", to_string(x), to_string(amax));
  if (x.numel() > 0) on_gpu(x) ? cuda::scaled_measure(x, amax) : cpu::scaled_measure(x, amax);
}

void scaled_store(const Tensor& x, const Tensor& amax, const ScaledTensor& to) {
  require(to.data.numel() == x.numel() && amax.numel() == 1, "scaled_store: {} by {} into {}", to_string(x),
          to_string(amax), to_string(to.data));
  require_scaled(to);
  on_gpu(x) ? cuda::scaled_store(x, amax, to) : cpu::scaled_store(x, amax, to);
}

void scaled_load(const ScaledTensor& from, const Tensor& x) {
  require(from.data.numel() == x.numel(), "scaled_load: {} into {}", to_string(from.data), to_string(x));
  require_scaled(from);
  on_gpu(x) ? cuda::scaled_load(from, x) : cpu::scaled_load(from, x);
}

}  // namespace nibble
