#include "nibble/cost/communication.h"

#include <algorithm>
#include <cmath>

#include "nibble/model/memory.h"
#include "nibble/recipe/weight_gather.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

constexpr double kF32 = 4;
constexpr double kBf16 = 2;

double as_double(std::int64_t n) { return static_cast<double>(n); }

/// To the node and to others in the same time.
double moving(const SentBytes& sent, const DeviceSpec& device) {
  return std::max(sent.node / device.node_link.rate(), sent.network / device.network_link.rate());
}

/// Of R-1 steps, nodes-1 of which leave the node.
double ring_latency(const Cluster& c, const DeviceSpec& device) {
  return as_double(c.ranks() - c.nodes) * device.node_link.latency +
         as_double(c.nodes - 1) * device.network_link.latency;
}

double tree_latency(const Cluster& c, const DeviceSpec& device) {
  return as_double(c.gpus - 1) * device.node_link.latency +
         std::ceil(std::log2(as_double(c.nodes))) * device.network_link.latency;
}

SentBytes ring_bytes(double bytes, const Cluster& c) {
  return {bytes * as_double(c.gpus - 1) / as_double(c.gpus), bytes * as_double(c.nodes - 1) / as_double(c.ranks())};
}

bool nothing_to_do(double bytes, const Cluster& cluster, const DeviceSpec& device) {
  if (bytes == 0 || cluster.ranks() == 1) return true;
  require(device.has_links(), "{} has no links", device.name);
  return false;
}

double vector_elements(const LlamaConfig& m) {
  return 2 * as_double(m.width) + (m.qkv_bias ? as_double(m.qkv_width()) : 0) +
         (m.qk_norm ? 2 * as_double(m.head_dim()) : 0);
}

/// Bytes of `elements` gradients that are stored in `stored` bytes each.
void add_gradients(PieceBytes& piece, double elements, double tensors, double stored, GradientFormat format) {
  const double bytes = std::min(stored, gradient_format_bytes(format));
  piece.gradients += bytes * elements;
  if (format != GradientFormat::FP8) return;
  piece.amax += kF32 * tensors;
  piece.sums += bytes * elements;
}

}  // namespace

SentBytes& SentBytes::operator+=(const SentBytes& other) {
  node += other.node;
  network += other.network;
  return *this;
}

Collective& Collective::operator+=(const Collective& other) {
  sent += other.sent;
  seconds += other.seconds;
  return *this;
}

Collective reduce_scatter(double bytes, const Cluster& cluster, const DeviceSpec& device) {
  if (nothing_to_do(bytes, cluster, device)) return {};
  const SentBytes sent = ring_bytes(bytes, cluster);
  return {sent, ring_latency(cluster, device) + moving(sent, device)};
}

Collective all_gather(double bytes, const Cluster& cluster, const DeviceSpec& device) {
  return reduce_scatter(bytes, cluster, device);
}

Collective all_reduce(double bytes, const Cluster& cluster, const DeviceSpec& device) {
  if (nothing_to_do(bytes, cluster, device)) return {};
  const SentBytes sent = ring_bytes(bytes, cluster) * 2;
  return {sent, 2 * std::min(ring_latency(cluster, device), tree_latency(cluster, device)) + moving(sent, device)};
}

Collective all_to_all(double bytes, const Cluster& cluster, const DeviceSpec& device) {
  if (nothing_to_do(bytes, cluster, device)) return {};
  const double ranks = as_double(cluster.ranks());
  const SentBytes sent = {bytes * as_double(cluster.gpus - 1) / ranks,
                          bytes * as_double(cluster.ranks() - cluster.gpus) / ranks};
  const double latency = as_double(cluster.gpus - 1) * device.node_link.latency +
                         as_double(cluster.ranks() - cluster.gpus) * device.network_link.latency;
  return {sent, latency + moving(sent, device)};
}

GradientFormat read_gradient_format(const std::string& name) {
  for (const GradientFormat format : {GradientFormat::F32, GradientFormat::BF16, GradientFormat::FP8}) {
    if (name == gradient_format_name(format)) return format;
  }
  user_error("--gradients is '{}', must be f32, bf16 or fp8", name);
}

const char* gradient_format_name(GradientFormat format) {
  constexpr const char* kNames[] = {"f32", "bf16", "fp8"};
  return kNames[static_cast<std::size_t>(format)];
}

double gradient_format_bytes(GradientFormat format) {
  constexpr double kBytes[] = {4, 2, 1};
  return kBytes[static_cast<std::size_t>(format)];
}

WeightBytes gathered_weight(const LinearRecipe& recipe, const LinearShape& shape, std::int64_t ranks) {
  if (ranks == 1) return {};
  const RowPieces pieces(shape.outputs, static_cast<int>(ranks));
  const auto outliers = static_cast<std::int64_t>(outlier_columns(recipe, shape.inputs));
  const auto whole = [&](WeightUse use) {
    const std::int64_t received = weight_gather(recipe, pieces, shape.inputs, use, outliers).bytes();
    return as_double(received) * as_double(ranks) / as_double(ranks - 1);
  };
  return {whole(WeightUse::Forward), whole(WeightUse::Backward), whole(WeightUse::Both)};
}

std::vector<PieceBytes> exchanged_pieces(const LlamaConfig& model, const Recipe& recipe,
                                         const OptimizerLayout& optimizer, GradientFormat format,
                                         const CostAssumptions& assumptions, std::int64_t ranks) {
  const double table = as_double(model.vocab) * as_double(model.width);
  const double vectors = vector_elements(model);
  const double other_gradient = optimizer.other_gradient > 0 ? optimizer.other_gradient : optimizer.gradient;
  const double other_value = std::min(kF32, optimizer.other_master > 0 ? optimizer.other_master : optimizer.master);
  const double value = std::min(kF32, optimizer.master);

  PieceBytes embedding;
  add_gradients(embedding, table, 1, other_gradient, format);
  embedding.parameters = other_value * table;
  embedding.forward_weights = embedding.bf16_weights = kF32 * table;

  PieceBytes head;
  const double final_norm = kF32 * as_double(model.width);
  head.gradients = head.parameters = final_norm;
  head.forward_weights = head.bf16_weights = kBf16 * table;
  if (!model.tied_head) {
    add_gradients(head, table, 1, other_gradient, format);
    head.parameters += other_value * table;
  }
  if (format == GradientFormat::FP8) head.sums += final_norm;

  std::vector<PieceBytes> pieces = {embedding};
  const std::vector<LinearShape> linears = block_linears(model);
  const std::vector<StageShare> stages = stage_shares(recipe, assumptions.monitored_from);
  const std::int64_t sharing = std::min(ranks, most_sharing_ranks(model));
  for (std::int64_t block = 0; block < model.layers; ++block) {
    PieceBytes piece;
    piece.gradients = piece.parameters = kF32 * vectors;
    const bool stays = block + 1 == model.layers;
    if (format == GradientFormat::FP8) piece.sums = kF32 * vectors;
    for (const LinearShape& shape : linears) {
      add_gradients(piece, shape.weights(), 1, optimizer.gradient, format);
      piece.parameters += value * shape.weights();
      piece.bf16_weights += (stays ? 1 : 2) * kBf16 * shape.weights();
      for (const StageShare& stage : stages) {
        const std::string name = fmt::format("layers.{}.{}", block, shape.name);
        const WeightBytes w = gathered_weight(recipe.resolve(name, block, model.layers, stage.stage), shape, sharing);
        piece.forward_weights += stage.share * (stays ? w.both : w.forward);
        piece.backward_weights += stage.share * (stays ? 0 : w.backward);
      }
    }
    pieces.push_back(piece);
  }
  pieces.push_back(head);
  return pieces;
}

}  // namespace nibble
