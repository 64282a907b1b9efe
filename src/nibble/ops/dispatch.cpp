#include "nibble/ops/backend.h"

namespace nibble {

namespace {

void same_device(const char* op, const Tensor& x, const Tensor& y) {
  if (x.device() == y.device() || !y.defined()) return;
  throw InternalError(fmt::format("{}: {} and {} are on different devices", op, to_string(x), to_string(y)));
}

/// Whether the tensors of a call are on the GPU; all of them have to be on one device.
template <class... Tensors>
bool on_gpu([[maybe_unused]] const char* op, const Tensor& first, const Tensors&... others) {
  (same_device(op, first, others), ...);
  return first.device() == Device::Cuda;
}

template <class... Tensors>
bool on_gpu(const char* op, const Arena& scratch, const Tensor& first, const Tensors&... others) {
  require(scratch.device() == first.device(), "{}: the scratch arena is on {}, but {}", op,
          device_name(scratch.device()), device_name(first.device()));
  return on_gpu(op, first, others...);
}

}  // namespace

void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                       Arena& scratch) {
  const bool gpu = on_gpu("attention_forward", scratch, qkv, out, lse);
  (gpu ? cuda::attention_forward : cpu::attention_forward)(shape, qkv, out, lse, scratch);
}

std::string attention_backend(const AttentionShape& shape, Device device) {
  return device == Device::Cuda ? cuda::attention_backend(shape) : cpu::attention_backend(shape);
}

void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, const Tensor& dqkv, Arena& scratch) {
  const bool gpu = on_gpu("attention_backward", scratch, qkv, out, lse, dout, dqkv);
  (gpu ? cuda::attention_backward : cpu::attention_backward)(shape, qkv, out, lse, dout, dqkv, scratch);
}

void cross_entropy_forward(const Tensor& logits, const Tensor& targets, const Tensor& loss) {
  const bool gpu = on_gpu("cross_entropy_forward", logits, targets, loss);
  (gpu ? cuda::cross_entropy_forward : cpu::cross_entropy_forward)(logits, targets, loss);
}

void cross_entropy_forward_backward(const Tensor& logits, const Tensor& targets, float scale, const Tensor& loss,
                                    const Tensor& dlogits) {
  const bool gpu = on_gpu("cross_entropy_forward_backward", logits, targets, loss, dlogits);
  (gpu ? cuda::cross_entropy_forward_backward : cpu::cross_entropy_forward_backward)(logits, targets, scale, loss,
                                                                                     dlogits);
}

void embedding_forward(const Tensor& tokens, const Tensor& table, const Tensor& x) {
  const bool gpu = on_gpu("embedding_forward", tokens, table, x);
  (gpu ? cuda::embedding_forward : cpu::embedding_forward)(tokens, table, x);
}

void embedding_backward(const Tensor& tokens, const Tensor& dx, const Tensor& dtable, Arena& scratch) {
  const bool gpu = on_gpu("embedding_backward", scratch, tokens, dx, dtable);
  (gpu ? cuda::embedding_backward : cpu::embedding_backward)(tokens, dx, dtable, scratch);
}

const char* gemm_path_name(GemmPath path) {
  switch (path) {
    case GemmPath::Int8: return "int8";
    case GemmPath::Int8Block: return "int8 by block";
    case GemmPath::Bf16: return "bf16";
    case GemmPath::F32: return "f32";
    case GemmPath::Fp8: return "fp8";
  }
  return "?";
}

GemmPath gemm_path(const GemmOperand& a, const GemmOperand& b) {
  const bool gpu = on_gpu("gemm_path", a.matrix.codes, b.matrix.codes);
  return (gpu ? cuda::gemm_path : cpu::gemm_path)(a, b);
}

void gemm(const GemmOperand& a, const GemmOperand& b, const Tensor& c, Accumulate accumulate, Arena& scratch) {
  const bool gpu = on_gpu("gemm", scratch, c, a.matrix.codes, b.matrix.codes);
  (gpu ? cuda::gemm : cpu::gemm)(a, b, c, accumulate, scratch);
}

void gemm_onto(const Tensor& addend, const GemmOperand& a, const GemmOperand& b, const Tensor& c, Arena& scratch) {
  const bool gpu = on_gpu("gemm_onto", scratch, addend, c, a.matrix.codes, b.matrix.codes);
  require(addend.dtype() == c.dtype() && addend.rows() == c.rows() && addend.cols() == c.cols(),
          "gemm_onto: {} added to a product {}", to_string(addend), to_string(c));
  (gpu ? cuda::gemm_onto : cpu::gemm_onto)(addend, a, b, c, scratch);
}

double sum_of_squares(const Tensor& x) {
  return (on_gpu("sum_of_squares", x) ? cuda::sum_of_squares : cpu::sum_of_squares)(x);
}

void scale_in_place(const Tensor& x, float factor) {
  (on_gpu("scale_in_place", x) ? cuda::scale_in_place : cpu::scale_in_place)(x, factor);
}

void add_in_place(const Tensor& to, const Tensor& from) {
  (on_gpu("add_in_place", to, from) ? cuda::add_in_place : cpu::add_in_place)(to, from);
}

std::int64_t first_non_finite(const Tensor& x) {
  return (on_gpu("first_non_finite", x) ? cuda::first_non_finite : cpu::first_non_finite)(x);
}

void rmsnorm_forward(const Tensor& x, const Tensor& gain, float eps, const Tensor& y, const Tensor& rstd) {
  const bool gpu = on_gpu("rmsnorm_forward", x, gain, y, rstd);
  (gpu ? cuda::rmsnorm_forward : cpu::rmsnorm_forward)(x, gain, eps, y, rstd);
}

void rmsnorm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& rstd, const Tensor& dx,
                      const Tensor& dgain, Arena& scratch) {
  const bool gpu = on_gpu("rmsnorm_backward", scratch, dy, x, gain, rstd, dx, dgain);
  (gpu ? cuda::rmsnorm_backward : cpu::rmsnorm_backward)(dy, x, gain, rstd, dx, dgain, scratch);
}

void rope_tables(float theta, const Tensor& cos, const Tensor& sin) {
  (on_gpu("rope_tables", cos, sin) ? cuda::rope_tables : cpu::rope_tables)(theta, cos, sin);
}

void rope_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin) {
  const bool gpu = on_gpu("rope_forward", qkv, cos, sin);
  (gpu ? cuda::rope_forward : cpu::rope_forward)(qkv, heads, kv_heads, cos, sin);
}

void rope_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos,
                   const Tensor& sin) {
  const bool gpu = on_gpu("rope_backward", dqkv, cos, sin);
  (gpu ? cuda::rope_backward : cpu::rope_backward)(dqkv, heads, kv_heads, cos, sin);
}

void spmm_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y) {
  const bool gpu = on_gpu("spmm_fprop", y, residual.row_begin, w_transposed);
  (gpu ? cuda::spmm_fprop : cpu::spmm_fprop)(residual, w_transposed, y);
}

void spmm_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch) {
  const bool gpu = on_gpu("spmm_wgrad", scratch, dw, residual.row_begin, dy);
  (gpu ? cuda::spmm_wgrad : cpu::spmm_wgrad)(residual, dy, dw, scratch);
}

void transpose(const Tensor& from, const Tensor& to) {
  (on_gpu("transpose", from, to) ? cuda::transpose : cpu::transpose)(from, to);
}

void swiglu_forward(const Tensor& gate_up, const Tensor& y) {
  (on_gpu("swiglu_forward", gate_up, y) ? cuda::swiglu_forward : cpu::swiglu_forward)(gate_up, y);
}

void swiglu_backward(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up) {
  const bool gpu = on_gpu("swiglu_backward", dy, gate_up, d_gate_up);
  (gpu ? cuda::swiglu_backward : cpu::swiglu_backward)(dy, gate_up, d_gate_up);
}

}  // namespace nibble
