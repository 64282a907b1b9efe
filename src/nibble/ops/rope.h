// Rotary position embedding (Su et al. 2021) in the half-split layout of Llama checkpoints in the Hugging Face
// format: dimension j pairs with j + head_dim / 2.
#pragma once

#include "nibble/quant/quantize.h"

namespace nibble {

/// How a model that was trained on short sequences turns its heads on longer ones: what becomes of a frequency
/// f = theta^(-2 j / head_dim), whose wavelength is 2 pi / f positions.
struct RopeScaling {
  enum class Kind : std::uint8_t {
    None,    ///< f
    Linear,  ///< f / factor: positions lie closer together (Chen et al. 2023)
    /// Llama 3.1's: f where the wavelength is below original_seq / high_freq_factor, f / factor where it is above
    /// original_seq / low_freq_factor; between, (1 - s) f / factor + s f with
    /// s = (original_seq / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor)
    Llama3,
  };
  Kind kind = Kind::None;
  double factor = 1;
  double low_freq_factor = 1;     ///< of Llama3, as all that follows
  double high_freq_factor = 4;    ///< above low_freq_factor
  std::int64_t original_seq = 0;  ///< positions before the scaling

  bool operator==(const RopeScaling&) const = default;
};

/// The frequency that takes the place of f.
double scaled_frequency(double f, const RopeScaling& scaling);

/// cos and sin of position * scaled_frequency(theta^(-2 j / head_dim)), computed in double: F32 [seq, head_dim / 2]
/// each.
void rope_tables(float theta, const RopeScaling& scaling, const Tensor& cos, const Tensor& sin);

/// Rotates, in place, the query and key heads of qkv [batch * seq, (heads + 2 kv_heads) * head_dim] (layout
/// q heads | k heads | v heads; v is left alone), F32 or BF16. Row t has position t mod seq, seq = cos.rows():
///   (a, b) -> (a cos - b sin, a sin + b cos)
void rope_forward(const Tensor& qkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin);
/// The transpose of the rotation, in place on the gradient. `raise`: magnitudes that are raised to those of all of
/// dqkv, on a GPU.
void rope_backward(const Tensor& dqkv, std::int64_t heads, std::int64_t kv_heads, const Tensor& cos, const Tensor& sin,
                   const PairMagnitudes& raise = {});

}  // namespace nibble
