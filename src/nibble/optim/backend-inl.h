// The functions of the optim room that every backend defines; backend.h includes this file once in each namespace.

void adamw_step(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v, const AdamWStep& step);
void adamw_fp8_measure(const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m, const ScaledTensor& v,
                       const AdamWStep& step, const Tensor& amax);
void adamw_fp8_store(const Tensor& param, const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m,
                     const ScaledTensor& v, const AdamWStep& step, const Tensor& amax, Arena& scratch);
void scaled_measure(const Tensor& x, const Tensor& amax);
void scaled_store(const Tensor& x, const Tensor& amax, const ScaledTensor& to);
void scaled_store(const Tensor& x, const ScaledTensor& to);
void scaled_load(const ScaledTensor& from, const Tensor& x);
