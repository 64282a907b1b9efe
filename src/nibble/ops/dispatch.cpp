// The public functions of the room: what a call must satisfy on every device is checked here, then the backend of the
// tensors does the work.
#include <atomic>

#include "nibble/ops/backend.h"
#include "nibble/ops/operand_scales.h"

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

void require_attention(const AttentionShape& s, const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  require(s.batch >= 0 && s.seq >= 0 && s.heads > 0 && s.kv_heads > 0 && s.heads % s.kv_heads == 0,
          "attention: batch {}, seq {}, {} heads, {} key/value heads", s.batch, s.seq, s.heads, s.kv_heads);
  require(s.head_dim > 0 && s.head_dim <= 256, "attention: head_dim is 1 to 256, not {}", s.head_dim);
  require(qkv.dtype() == DType::F32 || qkv.dtype() == DType::BF16, "attention: qkv is {}", to_string(qkv));
  const std::int64_t tokens = s.batch * s.seq;
  require(qkv.numel() == tokens * (s.heads + 2 * s.kv_heads) * s.head_dim, "attention: qkv is {}", to_string(qkv));
  require(out.numel() == tokens * s.heads * s.head_dim && out.dtype() == qkv.dtype(), "attention: qkv is {}, out is {}",
          to_string(qkv), to_string(out));
  require(lse.numel() == s.heads * tokens && lse.dtype() == DType::F32, "attention: lse is {}", to_string(lse));
}

void require_cross_entropy(const Tensor& logits, const Tensor& targets, const Tensor& loss) {
  require(targets.numel() == logits.rows() && loss.numel() == logits.rows(),
          "cross_entropy: logits {}, targets {}, loss {}", to_string(logits), to_string(targets), to_string(loss));
}

void require_product(const GemmOperand& a, const GemmOperand& b, const Tensor& c) {
  const std::int64_t m = outer_extent(a);
  const std::int64_t n = outer_extent(b);
  const std::int64_t k = inner_extent(a);
  require(inner_extent(b) == k, "gemm: contraction over {} of A and {} of B", k, inner_extent(b));
  require(c.dims() == 2 && c.dim(0) == m && c.dim(1) == n, "gemm: product is [{}, {}], C is {}", m, n, to_string(c));
  require(c.dtype() == DType::F32 || c.dtype() == DType::BF16, "gemm: C is {}, not F32 or BF16", to_string(c));
}

void require_heads(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains,
                   const Tensor& before, const Tensor& rstd) {
  const std::int64_t dim = gains.query.numel();
  const std::int64_t turned = heads + kv_heads;
  require(gains.key.numel() == dim && (qkv.numel() == 0 || qkv.cols() == (turned + kv_heads) * dim) &&
              rstd.numel() == qkv.rows() * turned,
          "head_norm: {} with {} heads, {} key/value heads, gains {}, rstd {}", to_string(qkv), heads, kv_heads,
          to_string(gains.query), to_string(rstd));
  require(before.numel() == qkv.rows() * turned * dim && before.dtype() == qkv.dtype(), "head_norm: {}, before {}",
          to_string(qkv), to_string(before));
}

/// Of what a function writes, [rows, cols], raised as it does so.
void require_magnitudes(const PairMagnitudes& m, std::int64_t rows, std::int64_t cols, const char* op) {
  if (!m.defined()) return;
  const auto fits = [](const Tensor& fold, std::int64_t n) { return !fold.defined() || fold.numel() == n; };
  require(m.of_rows.numel() == rows && m.of_cols.numel() == cols && fits(m.col_fold, cols) && fits(m.row_fold, rows) &&
              m.col_fold.defined() == m.row_fold.defined(),
          "{}: magnitudes of [{}, {}] for [{}, {}]", op, m.of_rows.numel(), m.of_cols.numel(), rows, cols);
}

void require_rope(const Tensor& x, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin) {
  const std::int64_t half = cos.cols();
  require(cos.numel() == sin.numel() && sin.cols() == half, "rope: cos is {}, sin is {}", to_string(cos),
          to_string(sin));
  require(x.numel() == 0 || x.cols() == (heads + 2 * kv_heads) * 2 * half,
          "rope: {} with {} heads, {} key/value heads of {}", to_string(x), heads, kv_heads, 2 * half);
}

/// An operand of spmm.
void require_matrix(const Tensor& x, std::int64_t rows, std::int64_t cols, const char* name) {
  require(x.dims() == 2 && x.dim(0) == rows && x.dim(1) == cols, "spmm: {} is {}, not [{}, {}]", name, to_string(x),
          rows, cols);
}

}  // namespace

void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                       Arena& scratch) {
  const bool gpu = on_gpu("attention_forward", scratch, qkv, out, lse);
  require_attention(shape, qkv, out, lse);
  (gpu ? cuda::attention_forward : cpu::attention_forward)(shape, qkv, out, lse, scratch);
}

std::string attention_backend(const AttentionShape& shape, Device device) {
  return device == Device::Cuda ? cuda::attention_backend(shape) : cpu::attention_backend(shape);
}

void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, const Tensor& dqkv, Arena& scratch) {
  const bool gpu = on_gpu("attention_backward", scratch, qkv, out, lse, dout, dqkv);
  require_attention(shape, qkv, out, lse);
  require(dout.numel() == out.numel() && dout.dtype() == out.dtype(), "attention: out is {}, dout is {}",
          to_string(out), to_string(dout));
  require(dqkv.numel() == qkv.numel() && dqkv.dtype() == qkv.dtype(), "attention: qkv is {}, dqkv is {}",
          to_string(qkv), to_string(dqkv));
  (gpu ? cuda::attention_backward : cpu::attention_backward)(shape, qkv, out, lse, dout, dqkv, scratch);
}

void bias_forward(const Tensor& y, const Tensor& bias) {
  const bool gpu = on_gpu("bias_forward", y, bias);
  require(bias.numel() == y.cols(), "bias_forward: y {}, bias {}", to_string(y), to_string(bias));
  (gpu ? cuda::bias_forward : cpu::bias_forward)(y, bias);
}

void bias_backward(const Tensor& dy, const Tensor& dbias, Arena& scratch) {
  const bool gpu = on_gpu("bias_backward", scratch, dy, dbias);
  require(dbias.numel() == dy.cols(), "bias_backward: dy {}, dbias {}", to_string(dy), to_string(dbias));
  (gpu ? cuda::bias_backward : cpu::bias_backward)(dy, dbias, scratch);
}

void cross_entropy_forward(const Tensor& logits, const Tensor& targets, const Tensor& loss) {
  const bool gpu = on_gpu("cross_entropy_forward", logits, targets, loss);
  require_cross_entropy(logits, targets, loss);
  (gpu ? cuda::cross_entropy_forward : cpu::cross_entropy_forward)(logits, targets, loss);
}

void cross_entropy_forward_backward(const Tensor& logits, const Tensor& targets, float scale, const Tensor& loss,
                                    const Tensor& dlogits) {
  const bool gpu = on_gpu("cross_entropy_forward_backward", logits, targets, loss, dlogits);
  require_cross_entropy(logits, targets, loss);
  require(dlogits.numel() == logits.numel() && (dlogits.raw() != logits.raw() || dlogits.dtype() == DType::F32),
          "cross_entropy: logits {}, dlogits {}", to_string(logits), to_string(dlogits));
  (gpu ? cuda::cross_entropy_forward_backward : cpu::cross_entropy_forward_backward)(logits, targets, scale, loss,
                                                                                     dlogits);
}

void embedding_forward(const Tensor& tokens, const Tensor& table, const Tensor& x) {
  const bool gpu = on_gpu("embedding_forward", tokens, table, x);
  require(x.numel() == tokens.numel() * table.cols(), "embedding_forward: {} tokens, table {}, x {}", tokens.numel(),
          to_string(table), to_string(x));
  (gpu ? cuda::embedding_forward : cpu::embedding_forward)(tokens, table, x);
}

void embedding_backward(const Tensor& tokens, const Tensor& dx, const Tensor& dtable, Arena& scratch) {
  const bool gpu = on_gpu("embedding_backward", scratch, tokens, dx, dtable);
  require(dx.numel() == tokens.numel() * dtable.cols(), "embedding_backward: {} tokens, dtable {}, dx {}",
          tokens.numel(), to_string(dtable), to_string(dx));
  (gpu ? cuda::embedding_backward : cpu::embedding_backward)(tokens, dx, dtable, scratch);
}

const char* gemm_path_name(GemmPath path) {
  switch (path) {
    case GemmPath::Int8: return "int8";
    case GemmPath::Int8Block: return "int8 by block";
    case GemmPath::Bf16: return "bf16";
    case GemmPath::F32: return "f32";
    case GemmPath::Fp8: return "fp8";
    case GemmPath::Native: return "native";
  }
  return "?";
}

namespace {

std::atomic<MxProducts> mx_products_setting{MxProducts::Fp8};
std::atomic<Fp8Accumulation> fp8_accumulation_setting{Fp8Accumulation::F32};

}  // namespace

void set_mx_products(MxProducts products) { mx_products_setting = products; }
MxProducts mx_products() { return mx_products_setting; }

void set_fp8_accumulation(Fp8Accumulation accumulation) { fp8_accumulation_setting = accumulation; }
Fp8Accumulation fp8_accumulation() { return fp8_accumulation_setting; }

MxRowCount mx_row_count(Device device) { return (device == Device::Cuda ? cuda::mx_row_count : cpu::mx_row_count)(); }

GemmPath gemm_path(const GemmOperand& a, const GemmOperand& b) {
  const bool gpu = on_gpu("gemm_path", a.matrix.codes, b.matrix.codes);
  return (gpu ? cuda::gemm_path : cpu::gemm_path)(a, b);
}

void gemm(const GemmOperand& a, const GemmOperand& b, const Tensor& c, Accumulate accumulate, Arena& scratch) {
  const bool gpu = on_gpu("gemm", scratch, c, a.matrix.codes, b.matrix.codes);
  require_product(a, b, c);
  (gpu ? cuda::gemm : cpu::gemm)(a, b, c, accumulate, scratch);
}

void gemm_onto(const Tensor& addend, const GemmOperand& a, const GemmOperand& b, const Tensor& c, Arena& scratch) {
  const bool gpu = on_gpu("gemm_onto", scratch, addend, c, a.matrix.codes, b.matrix.codes);
  require(addend.dtype() == c.dtype() && addend.rows() == c.rows() && addend.cols() == c.cols(),
          "gemm_onto: {} added to a product {}", to_string(addend), to_string(c));
  require_product(a, b, c);
  (gpu ? cuda::gemm_onto : cpu::gemm_onto)(addend, a, b, c, scratch);
}

void head_norm_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains, float eps,
                       const Tensor& before, const Tensor& rstd) {
  const bool gpu = on_gpu("head_norm_forward", qkv, gains.query, gains.key, before, rstd);
  require_heads(qkv, heads, kv_heads, gains, before, rstd);
  (gpu ? cuda::head_norm_forward : cpu::head_norm_forward)(qkv, heads, kv_heads, gains, eps, before, rstd);
}

void head_norm_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains,
                        const Tensor& before, const Tensor& rstd, const HeadGains& dgains, Arena& scratch) {
  const bool gpu =
      on_gpu("head_norm_backward", scratch, dqkv, gains.query, gains.key, before, rstd, dgains.query, dgains.key);
  require_heads(dqkv, heads, kv_heads, gains, before, rstd);
  require(dgains.query.numel() == gains.query.numel() && dgains.key.numel() == gains.key.numel(),
          "head_norm_backward: gains {}, their gradients {} and {}", to_string(gains.query), to_string(dgains.query),
          to_string(dgains.key));
  (gpu ? cuda::head_norm_backward : cpu::head_norm_backward)(dqkv, heads, kv_heads, gains, before, rstd, dgains,
                                                             scratch);
}

double sum_of_squares(const Tensor& x) {
  return (on_gpu("sum_of_squares", x) ? cuda::sum_of_squares : cpu::sum_of_squares)(x);
}

void squares_of_chunks(const Tensor& x, std::int64_t chunk, const Tensor& sums) {
  const bool gpu = on_gpu("squares_of_chunks", x, sums);
  require(chunk > 0 && sums.dtype() == DType::U8 &&
              sums.numel() == (x.numel() + chunk - 1) / chunk * static_cast<std::int64_t>(sizeof(double)),
          "squares_of_chunks: {} by {} into {}", to_string(x), chunk, to_string(sums));
  if (x.numel() > 0) (gpu ? cuda::squares_of_chunks : cpu::squares_of_chunks)(x, chunk, sums);
}

void scale_in_place(const Tensor& x, float factor) {
  (on_gpu("scale_in_place", x) ? cuda::scale_in_place : cpu::scale_in_place)(x, factor);
}

void add_in_place(const Tensor& to, const Tensor& from) {
  const bool gpu = on_gpu("add_in_place", to, from);
  require(to.numel() == from.numel(), "add_in_place: {} += {}", to_string(to), to_string(from));
  (gpu ? cuda::add_in_place : cpu::add_in_place)(to, from);
}

void update_amax(const Tensor& x, const Tensor& amax) {
  const bool gpu = on_gpu("update_amax", x, amax);
  require(amax.numel() == 1, "update_amax: amax is {}", to_string(amax));
  (gpu ? cuda::update_amax : cpu::update_amax)(x, amax);
}

void encode_gradient(const Tensor& x, const Tensor& amax, float divisor, const Tensor& codes) {
  const bool gpu = on_gpu("encode_gradient", x, amax, codes);
  require(codes.numel() == x.numel(), "encode_gradient: {} into {}", to_string(x), to_string(codes));
  (gpu ? cuda::encode_gradient : cpu::encode_gradient)(x, amax, divisor, codes);
}

void add_gradient_codes(const Tensor& codes, int ranks, const Tensor& sum, const Tensor& saturated) {
  const bool gpu = on_gpu("add_gradient_codes", codes, sum, saturated);
  require(ranks > 0 && codes.numel() == ranks * sum.numel(), "add_gradient_codes: {} of {} ranks into {}",
          to_string(codes), ranks, to_string(sum));
  (gpu ? cuda::add_gradient_codes : cpu::add_gradient_codes)(codes, ranks, sum, saturated);
}

void decode_gradient(const Tensor& codes, const Tensor& amax, float divisor, const Tensor& x) {
  const bool gpu = on_gpu("decode_gradient", codes, amax, x);
  require(codes.numel() == x.numel(), "decode_gradient: {} into {}", to_string(codes), to_string(x));
  (gpu ? cuda::decode_gradient : cpu::decode_gradient)(codes, amax, divisor, x);
}

std::int64_t first_non_finite(const Tensor& x) {
  return (on_gpu("first_non_finite", x) ? cuda::first_non_finite : cpu::first_non_finite)(x);
}

void rmsnorm_forward(const Tensor& x, const Tensor& gain, float eps, const Tensor& y, const Tensor& rstd) {
  const bool gpu = on_gpu("rmsnorm_forward", x, gain, y, rstd);
  require(gain.numel() == x.cols() && y.numel() == x.numel() && rstd.numel() == x.rows(),
          "rmsnorm_forward: x {}, gain {}, y {}", to_string(x), to_string(gain), to_string(y));
  (gpu ? cuda::rmsnorm_forward : cpu::rmsnorm_forward)(x, gain, eps, y, rstd);
}

void rmsnorm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& rstd, const Tensor& dx,
                      const Tensor& dgain, Arena& scratch, const PairMagnitudes& raise) {
  const bool gpu = on_gpu("rmsnorm_backward", scratch, dy, x, gain, rstd, dx, dgain);
  require(dy.numel() == x.numel() && dx.numel() == x.numel() && gain.numel() == x.cols() && dgain.numel() == x.cols() &&
              rstd.numel() == x.rows(),
          "rmsnorm_backward: dy {}, x {}, gain {}, dx {}", to_string(dy), to_string(x), to_string(gain), to_string(dx));
  require_magnitudes(raise, dx.rows(), dx.cols(), "rmsnorm_backward");
  (gpu ? cuda::rmsnorm_backward : cpu::rmsnorm_backward)(dy, x, gain, rstd, dx, dgain, scratch, raise);
}

void rope_tables(float theta, const RopeScaling& scaling, const Tensor& cos, const Tensor& sin) {
  const bool gpu = on_gpu("rope_tables", cos, sin);
  require(cos.numel() == sin.numel() && cos.cols() == sin.cols(), "rope_tables: cos is {}, sin is {}", to_string(cos),
          to_string(sin));
  (gpu ? cuda::rope_tables : cpu::rope_tables)(theta, scaling, cos, sin);
}

void rope_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin) {
  const bool gpu = on_gpu("rope_forward", qkv, cos, sin);
  require_rope(qkv, heads, kv_heads, cos, sin);
  (gpu ? cuda::rope_forward : cpu::rope_forward)(qkv, heads, kv_heads, cos, sin);
}

void rope_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin,
                   const PairMagnitudes& raise) {
  const bool gpu = on_gpu("rope_backward", dqkv, cos, sin);
  require_rope(dqkv, heads, kv_heads, cos, sin);
  require_magnitudes(raise, dqkv.rows(), dqkv.cols(), "rope_backward");
  (gpu ? cuda::rope_backward : cpu::rope_backward)(dqkv, heads, kv_heads, cos, sin, raise);
}

void spmm_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y, Arena& scratch) {
  const bool gpu = on_gpu("spmm_fprop", scratch, y, residual.row_begin, w_transposed);
  require(residual.defined(), "spmm_fprop: no residual");
  require(y.dims() == 2, "spmm_fprop: Y is {}", to_string(y));
  require_matrix(w_transposed, residual.cols, y.dim(1), "W^T");
  require_matrix(y, residual.rows, y.dim(1), "Y");
  (gpu ? cuda::spmm_fprop : cpu::spmm_fprop)(residual, w_transposed, y, scratch);
}

void spmm_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch) {
  const bool gpu = on_gpu("spmm_wgrad", scratch, dw, residual.row_begin, dy);
  require(residual.defined(), "spmm_wgrad: no residual");
  require(dw.dims() == 2, "spmm_wgrad: dW is {}", to_string(dw));
  require_matrix(dy, residual.rows, dw.dim(0), "dY");
  require_matrix(dw, dw.dim(0), residual.cols, "dW");
  (gpu ? cuda::spmm_wgrad : cpu::spmm_wgrad)(residual, dy, dw, scratch);
}

void transpose(const Tensor& from, const Tensor& to) {
  const bool gpu = on_gpu("transpose", from, to);
  require(from.dims() == 2 && to.dims() == 2 && from.dim(0) == to.dim(1) && from.dim(1) == to.dim(0),
          "transpose: {} to {}", to_string(from), to_string(to));
  (gpu ? cuda::transpose : cpu::transpose)(from, to);
}

void swiglu_forward(const Tensor& gate_up, const Tensor& y) {
  const bool gpu = on_gpu("swiglu_forward", gate_up, y);
  require(gate_up.cols() == 2 * y.cols() && gate_up.rows() == y.rows(), "swiglu: gate_up is {}, y is {}",
          to_string(gate_up), to_string(y));
  (gpu ? cuda::swiglu_forward : cpu::swiglu_forward)(gate_up, y);
}

void swiglu_backward(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up, const PairMagnitudes& raise) {
  const bool gpu = on_gpu("swiglu_backward", dy, gate_up, d_gate_up);
  require(gate_up.cols() == 2 * dy.cols() && gate_up.rows() == dy.rows() && d_gate_up.cols() == 2 * dy.cols() &&
              d_gate_up.rows() == dy.rows(),
          "swiglu: dy is {}, gate_up is {}, d_gate_up is {}", to_string(dy), to_string(gate_up), to_string(d_gate_up));
  require_magnitudes(raise, d_gate_up.rows(), d_gate_up.cols(), "swiglu_backward");
  (gpu ? cuda::swiglu_backward : cpu::swiglu_backward)(dy, gate_up, d_gate_up, raise);
}

}  // namespace nibble
