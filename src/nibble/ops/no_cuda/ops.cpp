// What a build without CUDA answers.
#include "nibble/ops/backend.h"
#include "nibble/ops/cuda/fused_quantize.h"
#include "nibble/tensor/no_cuda/refuse.h"

namespace nibble::cuda {

void attention_forward(const AttentionShape&, const Tensor&, const Tensor&, const Tensor&, Arena&) {
  refuse("attention_forward");
}
void attention_backward(const AttentionShape&, const Tensor&, const Tensor&, const Tensor&, const Tensor&,
                        const Tensor&, Arena&) {
  refuse("attention_backward");
}
std::string attention_backend(const AttentionShape&) { refuse("attention"); }
void bias_forward(const Tensor&, const Tensor&) { refuse("bias_forward"); }
void bias_backward(const Tensor&, const Tensor&, Arena&) { refuse("bias_backward"); }
void cross_entropy_forward(const Tensor&, const Tensor&, const Tensor&) { refuse("cross_entropy_forward"); }
void cross_entropy_forward_backward(const Tensor&, const Tensor&, float, const Tensor&, const Tensor&) {
  refuse("cross_entropy_forward_backward");
}
void embedding_forward(const Tensor&, const Tensor&, const Tensor&) { refuse("embedding_forward"); }
void embedding_backward(const Tensor&, const Tensor&, const Tensor&, Arena&) { refuse("embedding_backward"); }
GemmPath gemm_path(const GemmOperand&, const GemmOperand&) { refuse("gemm_path"); }
MxRowCount mx_row_count() { refuse("mx_row_count"); }
void gemm(const GemmOperand&, const GemmOperand&, const Tensor&, Accumulate, Arena&) { refuse("gemm"); }
void gemm_onto(const Tensor&, const GemmOperand&, const GemmOperand&, const Tensor&, Arena&) { refuse("gemm_onto"); }
void head_norm_forward(const Tensor&, std::int64_t, std::int64_t, const HeadGains&, float, const Tensor&,
                       const Tensor&) {
  refuse("head_norm_forward");
}
void head_norm_backward(const Tensor&, std::int64_t, std::int64_t, const HeadGains&, const Tensor&, const Tensor&,
                        const HeadGains&, Arena&) {
  refuse("head_norm_backward");
}
double sum_of_squares(const Tensor&) { refuse("sum_of_squares"); }
void squares_of_chunks(const Tensor&, std::int64_t, const Tensor&) { refuse("squares_of_chunks"); }
void scale_in_place(const Tensor&, float) { refuse("scale_in_place"); }
void add_in_place(const Tensor&, const Tensor&) { refuse("add_in_place"); }
void update_amax(const Tensor&, const Tensor&) { refuse("update_amax"); }
void encode_gradient(const Tensor&, const Tensor&, float, const Tensor&) { refuse("encode_gradient"); }
void add_gradient_codes(const Tensor&, int, const Tensor&, const Tensor&) { refuse("add_gradient_codes"); }
void decode_gradient(const Tensor&, const Tensor&, float, const Tensor&) { refuse("decode_gradient"); }
std::int64_t first_non_finite(const Tensor&) { refuse("first_non_finite"); }
QTensor rmsnorm_quantize(const Tensor&, const Tensor&, float, const Tensor&, const QuantSpec&, const QuantizeContext&,
                         Arena&) {
  refuse("rmsnorm_quantize");
}
void rmsnorm_forward(const Tensor&, const Tensor&, float, const Tensor&, const Tensor&) { refuse("rmsnorm_forward"); }
void rmsnorm_backward(const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, const Tensor&, Arena&,
                      const PairMagnitudes&) {
  refuse("rmsnorm_backward");
}
void rope_tables(float, const RopeScaling&, const Tensor&, const Tensor&) { refuse("rope_tables"); }
void rope_forward(const Tensor&, std::int64_t, std::int64_t, const Tensor&, const Tensor&) { refuse("rope_forward"); }
void rope_backward(const Tensor&, std::int64_t, std::int64_t, const Tensor&, const Tensor&, const PairMagnitudes&) {
  refuse("rope_backward");
}
void spmm_fprop(const CsrMatrix&, const Tensor&, const Tensor&, Arena&) { refuse("spmm_fprop"); }
void spmm_wgrad(const CsrMatrix&, const Tensor&, const Tensor&, Arena&) { refuse("spmm_wgrad"); }
void transpose(const Tensor&, const Tensor&) { refuse("transpose"); }
QTensor swiglu_quantize(const Tensor&, const QuantSpec&, const QuantizeContext&, Arena&) { refuse("swiglu_quantize"); }
void swiglu_forward(const Tensor&, const Tensor&) { refuse("swiglu_forward"); }
void swiglu_backward(const Tensor&, const Tensor&, const Tensor&, const PairMagnitudes&) { refuse("swiglu_backward"); }

}  // namespace nibble::cuda
