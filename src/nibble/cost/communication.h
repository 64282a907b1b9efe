// What the ranks of a data-parallel run send one another in a step, in bytes and seconds. The plan that is counted here
// is that of docs/distributed.md.
//
// A collective on S bytes over R = gpus x nodes ranks. A rank sends, in the mean over the ranks,
//
//   reduce_scatter, all_gather    S (R-1)/R = S (gpus-1)/gpus to its node + S (nodes-1)/R to others
//   all_reduce                    twice that
//   all_to_all                    S (gpus-1)/R to its node + S (R-gpus)/R to others
//
// A reduction sends sums, so a node's ranks pass the same bytes on once; an exchange sends every rank something else.
// Over links of rate b and latency a (alpha-beta model; Hockney 1994), node n and network x:
//
//   seconds = latency + max(bytes to the node / b_n, bytes to others / b_x)
//   latency = (R - nodes) a_n + (nodes - 1) a_x                      a ring's R-1 steps
//   all_reduce: twice that, or 2 ((gpus-1) a_n + ceil(log2(nodes)) a_x) where a tree is faster
//   all_to_all: (gpus-1) a_n + (R-gpus) a_x                          one message after another
//
// Both links work at the same time, on different chunks. The first two are the latencies by which NCCL chooses between
// its ring and its tree.
#pragma once

#include <string>
#include <vector>

#include "nibble/cost/step.h"

namespace nibble {

/// Of equal nodes; rank r is in node r / gpus.
struct Cluster {
  std::int64_t gpus = 1;  ///< a node
  std::int64_t nodes = 1;
  std::int64_t ranks() const { return gpus * nodes; }
};

struct SentBytes {
  double node = 0;     ///< to GPUs of the same node
  double network = 0;  ///< to GPUs of other nodes
  double total() const { return node + network; }
  SentBytes& operator+=(const SentBytes& other);
  SentBytes operator*(double times) const { return {node * times, network * times}; }
};

struct Collective {
  SentBytes sent;  ///< by one rank
  double seconds = 0;
  Collective& operator+=(const Collective& other);
};

/// All of `bytes` 0 and one rank cost nothing. Several ranks require a device with links.
Collective reduce_scatter(double bytes, const Cluster& cluster, const DeviceSpec& device);
Collective all_gather(double bytes, const Cluster& cluster, const DeviceSpec& device);
Collective all_reduce(double bytes, const Cluster& cluster, const DeviceSpec& device);
Collective all_to_all(double bytes, const Cluster& cluster, const DeviceSpec& device);

/// How gradients of matrices travel; those of vectors travel in F32.
enum class GradientFormat : std::uint8_t {
  F32,
  BF16,
  FP8,  ///< codes of one byte by all_to_all, under the amax of each tensor; their owner adds in F32
};
/// "f32", "bf16" or "fp8"; UserError for another name.
GradientFormat read_gradient_format(const std::string& name);
const char* gradient_format_name(GradientFormat format);
double gradient_format_bytes(GradientFormat format);

/// A part of the model that travels in one piece, in bytes of the whole piece: the embedding, a block, or the head with
/// the final norm.
struct PieceBytes {
  double gradients = 0;
  double amax = 0;  ///< of FP8 gradients, F32 a matrix
  double sums = 0;  ///< of FP8 gradients, where every rank needs them (ZeRO-0): codes again
  /// Values that every rank needs after the update (ZeRO-1 and 2): as wide as they are stored, F32 at most.
  double parameters = 0;
  /// What ranks that share values (ZeRO-3) gather: of a block for the forward and for the backward of each pass
  /// (WeightBytes), of the last one, which stays, for both at once; of the embedding (F32) and the head (BF16) once a
  /// step.
  double forward_weights = 0;
  double backward_weights = 0;
  double bf16_weights = 0;  ///< both, were all linear layers to travel in BF16
};

/// Embedding, blocks 0 to L-1, head. Averaged over the recipe's stages. A tied table's gradient and value count with
/// the embedding; the head reads it in BF16 nevertheless. Statistics of weights that span ranks (a few kB) are left
/// out. A gradient that is stored in fewer bytes than `format` has travels as it is stored. `ranks` share a matrix's
/// rows.
std::vector<PieceBytes> exchanged_pieces(const LlamaConfig& model, const Recipe& recipe,
                                         const OptimizerLayout& optimizer, GradientFormat format,
                                         const CostAssumptions& assumptions, std::int64_t ranks);

/// What `ranks` gather of a linear layer's W, as training does it (recipe/weight_gather.h): bytes of all of W, of which
/// each rank has one part in `ranks` already; with the padding of the last piece. Nothing for one rank.
struct WeightBytes {
  double forward = 0;
  double backward = 0;
  double both = 0;
};
WeightBytes gathered_weight(const LinearRecipe& recipe, const LinearShape& shape, std::int64_t ranks);

}  // namespace nibble
