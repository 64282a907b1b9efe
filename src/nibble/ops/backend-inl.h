// The ops that every backend defines, for inclusion inside its namespace (ops/backend.h): the equation of each stands
// in its public header. Deliberately without an include guard.

void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                       Arena& scratch);
void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, const Tensor& dqkv, Arena& scratch);
std::string attention_backend(const AttentionShape& shape);

void bias_forward(const Tensor& y, const Tensor& bias);
void bias_backward(const Tensor& dy, const Tensor& dbias, Arena& scratch);

void cross_entropy_forward(const Tensor& logits, const Tensor& targets, const Tensor& loss);
void cross_entropy_forward_backward(const Tensor& logits, const Tensor& targets, float scale, const Tensor& loss,
                                    const Tensor& dlogits);

void embedding_forward(const Tensor& tokens, const Tensor& table, const Tensor& x);
void embedding_backward(const Tensor& tokens, const Tensor& dx, const Tensor& dtable, Arena& scratch);

void update_amax(const Tensor& x, const Tensor& amax);
void encode_gradient(const Tensor& x, const Tensor& amax, float divisor, const Tensor& codes);
void add_gradient_codes(const Tensor& codes, int ranks, const Tensor& sum, const Tensor& saturated);
void decode_gradient(const Tensor& codes, const Tensor& amax, float divisor, const Tensor& x);

GemmPath gemm_path(const GemmOperand& a, const GemmOperand& b);
MxRowCount mx_row_count();
void gemm(const GemmOperand& a, const GemmOperand& b, const Tensor& c, Accumulate accumulate, Arena& scratch);
void gemm_onto(const Tensor& addend, const GemmOperand& a, const GemmOperand& b, const Tensor& c, Arena& scratch);

void head_norm_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains, float eps,
                       const Tensor& before, const Tensor& rstd);
void head_norm_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const HeadGains& gains,
                        const Tensor& before, const Tensor& rstd, const HeadGains& dgains, Arena& scratch);

double sum_of_squares(const Tensor& x);
void squares_of_chunks(const Tensor& x, std::int64_t chunk, const Tensor& sums);
void scale_in_place(const Tensor& x, float factor);
void add_in_place(const Tensor& to, const Tensor& from);
std::int64_t first_non_finite(const Tensor& x);

void rmsnorm_forward(const Tensor& x, const Tensor& gain, float eps, const Tensor& y, const Tensor& rstd);
void rmsnorm_backward(const Tensor& dy, const Tensor& x, const Tensor& gain, const Tensor& rstd, const Tensor& dx,
                      const Tensor& dgain, Arena& scratch, const PairMagnitudes& raise);

void rope_tables(float theta, const RopeScaling& scaling, const Tensor& cos, const Tensor& sin);
void rope_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin);
void rope_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin,
                   const PairMagnitudes& raise);

void spmm_fprop(const CsrMatrix& residual, const Tensor& w_transposed, const Tensor& y, Arena& scratch);
void spmm_wgrad(const CsrMatrix& residual, const Tensor& dy, const Tensor& dw, Arena& scratch);
void transpose(const Tensor& from, const Tensor& to);

void swiglu_forward(const Tensor& gate_up, const Tensor& y);
void swiglu_backward(const Tensor& dy, const Tensor& gate_up, const Tensor& d_gate_up, const PairMagnitudes& raise);
