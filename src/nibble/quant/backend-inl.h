// The functions of the quant room that every backend defines; backend.h includes this file once in each namespace.

QTensor quantize(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, Arena& arena);
QuantizedPair quantize_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                            const QuantizeContext& in_b, Arena& arena, const PairMagnitudes& known);
PairMagnitudes pair_magnitudes(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                               const QuantizeContext& in_b, Arena& arena);
void raise_magnitudes(const Tensor& x, const PairMagnitudes& magnitudes);
AmaxPair amax_pair(const Tensor& x, const QuantSpec& a, const QuantizeContext& in_a, const QuantSpec& b,
                   const QuantizeContext& in_b, Arena& arena);
void shared_amax(const Tensor& x, const QuantSpec& spec, const QuantizeContext& context, const Tensor& amax,
                 Arena& scratch);
void dequantize(const QTensor& q, const Tensor& out);
QuantQuality measure_quality(const Tensor& x, const QTensor& q, const QuantSpec& spec, const QuantizeContext& context,
                             Arena& scratch);
void dge_apply(const Tensor& dw, const Tensor& w, const QTensor& q, const QuantSpec& spec, float k, float clip);
void hadamard_forward(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out);
void hadamard_inverse(const Tensor& x, const Hadamard& transform, const RandomStream& stream, const Tensor& out);
