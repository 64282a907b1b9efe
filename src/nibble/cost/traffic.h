// What quantising the operands of a linear layer moves and computes: the roofline of the quantisers.
#pragma once

#include <array>

#include "nibble/cost/operand.h"

namespace nibble {

/// What is taken for granted about the kernels; printed with every estimate.
struct CostAssumptions {
  /// true: a tensor's amax is taken by the kernel that writes the tensor, so a quantiser reads its source once. false:
  /// a scale that depends on a whole tensor or column costs a pass over it first, as in Transformer Engine.
  bool fused = false;
  double weight_source_bytes = 4;      ///< of an element of W that quantisers read: FP32 master weights
  double activation_source_bytes = 2;  ///< of X and dY: BF16
  /// Products take operands that lie contiguously along the contraction only (FP8 and FP4 tensor cores): an operand
  /// that serves two products is stored twice.
  bool transposed_copies = true;
  /// A stage that waits for a monitored figure begins at this fraction of the run at the earliest; 0.96 leaves the
  /// share of a run that the quantisation-aware tail of "FP4 All the Way" took (40 of 1040 billion tokens).
  double monitored_from = 0.96;
};

/// For one operand. Reading a source that several operands share is charged to the first of them.
struct OperandTraffic {
  double bytes_read = 0;
  double bytes_written = 0;
  double operations = 0;
  double bytes() const { return bytes_read + bytes_written; }
  OperandTraffic& operator+=(const OperandTraffic& other);
  OperandTraffic operator*(double factor) const;
};

/// For X and dY of `tokens` tokens, and for W once. All source tensors (X, W, dY) are read once for all copies that are
/// made of them; a separate amax pass reads them once more; a requantised operand reads the saved codes; written are
/// the codes and scales of every copy, the trust mask, and 8 bytes for each element of a sparse residual. An
/// unquantised W costs its conversion to BF16; unquantised X and dY cost nothing.
std::array<OperandTraffic, 6> quantise_traffic(const LinearRecipe& recipe, const LinearShape& shape, double tokens,
                                               const CostAssumptions& assumptions);

/// Whether a scale or clamp of `spec` depends on values from all rows of the source tensor.
bool needs_amax_pass(const QuantSpec& spec);

/// Once a step: DGE's factor on dW (W read, dW read and written; 8 operations an element) and the moving average of W
/// (W read, the average read and written; 3 operations).
OperandTraffic update_traffic(const LinearRecipe& recipe, const LinearShape& shape);

/// What `product` of `tokens` tokens moves between quantising and multiplying, where it runs by `path`: every operand
/// that is rewritten is read as it is stored and written in a byte an element.
double rewritten_bytes(const LinearRecipe& recipe, const LinearShape& shape, Product product, double tokens,
                       const ProductPath& path);

/// Gradients that come out in fprop's rotated basis and are rotated back: dX in BF16, dW in F32, each read and written,
/// and the trust mask read.
struct RotatedBytes {
  double dx = 0;
  double dw = 0;
};
RotatedBytes rotated_bytes(const LinearRecipe& recipe, const LinearShape& shape, double tokens);

/// max(bytes / what quantisers reach of the bandwidth, operations / what the vector units reach).
double quantise_seconds(const OperandTraffic& traffic, const DeviceSpec& device);

}  // namespace nibble
