// AdamW (Loshchilov & Hutter 2019), and the mixed-precision variant of FP8-LM (Peng et al. 2023, released as
// LBAdamW) that Wang et al. 2025 train with.
//
//   m = b1 m + (1 - b1) g        v = b2 v + (1 - b2) g^2
//   p = p (1 - lr wd)            p = p - lr / (1 - b1^t) * m / (sqrt(v) / sqrt(1 - b2^t) + eps)
#pragma once

#include "nibble/tensor/tensor.h"

namespace nibble {

struct AdamWStep {
  float lr = 0;
  float beta1 = 0.9f;
  float beta2 = 0.95f;
  float eps = 1e-8f;
  float weight_decay = 0.1f;
  std::int64_t t = 1;       ///< this step's number, from 1
  float grad_scale = 1.0f;  ///< multiplied into g: the clipping factor
};

/// All tensors F32 of one size; updated in place.
void adamw_step(const Tensor& param, const Tensor& grad, const Tensor& m, const Tensor& v, const AdamWStep& step);

/// A tensor with one power-of-two scale (FP8-LM's ScalingTensor): stored = cast(x * sf), saturating,
/// sf = 2^floor(log2(fp_max / amax)) with the exponent held to [-126, 126]; fp_max is 448 (E4M3) or 65504 (F16).
/// amax of 0 or not finite keeps the previous sf; a scale_inv of 0 (zero-filled memory) counts as 1.
/// data: U8 (E4M3) or F16.
struct ScaledTensor {
  Tensor data;
  Tensor scale_inv;  ///< F32 [1]: 1 / sf
};

/// One parameter tensor of the FP8-LM optimizer: master weight F16, first moment E4M3, second moment F16, each
/// with one scale: 5 bytes a parameter beside the gradient. The update uses the unquantised new moments in F32;
/// they are then requantised with freshly computed scales. `param` (F32) receives the dequantised new master, so
/// the model computes with what is stored.
void adamw_fp8_step(const Tensor& param, const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m,
                    const ScaledTensor& v, const AdamWStep& step, Arena& scratch);

/// The same in two steps, for ranks that share a tensor by pieces: each measures its own, they agree on the largest,
/// and every one stores with the scale of the whole. amax (I32 [3], of master, m and v) = max(amax, the bits of the
/// largest magnitude of the new values); as integers they order like the magnitudes, NaN at the top.
void adamw_fp8_measure(const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m, const ScaledTensor& v,
                       const AdamWStep& step, const Tensor& amax);
void adamw_fp8_store(const Tensor& param, const Tensor& grad, const ScaledTensor& master, const ScaledTensor& m,
                     const ScaledTensor& v, const AdamWStep& step, const Tensor& amax, Arena& scratch);

/// Quantises x (F32) into a ScaledTensor; dequantise(x) into F32.
void scaled_store(const Tensor& x, const ScaledTensor& to);
/// The same for ranks that share a tensor by pieces: amax (I32 [1]) = max(amax, the bits of the largest magnitude of
/// x), then all store with the scale of the whole.
void scaled_measure(const Tensor& x, const Tensor& amax);
void scaled_store(const Tensor& x, const Tensor& amax, const ScaledTensor& to);
void scaled_load(const ScaledTensor& from, const Tensor& x);

}  // namespace nibble
