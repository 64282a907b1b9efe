// The shape of a Llama model (Touvron et al. 2023): RMSNorm, RoPE, SwiGLU, grouped-query attention; with what its
// relatives add: heads of another width, scaled RoPE, biases of query, key and value (Qwen2), QK norm (Qwen3).
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "nibble/io/config_table.h"
#include "nibble/ops/rope.h"
#include "nibble/tensor/tensor.h"

namespace nibble {

/// Tokens a training sequence has at most where the user names no length: models promise contexts far beyond.
inline constexpr std::int64_t kLongestDefaultSeq = 2048;

struct LlamaConfig {
  std::string name = "llama";
  std::int64_t layers = 0;
  std::int64_t width = 0;
  std::int64_t heads = 0;
  std::int64_t kv_heads = 0;  ///< = heads for multi-head attention; must divide heads
  std::int64_t ffn = 0;       ///< hidden width of the SwiGLU block
  std::int64_t vocab = 0;
  std::int64_t seq = 0;           ///< tokens a sequence in training
  std::int64_t own_head_dim = 0;  ///< key "head_dim": dimensions of a head; 0 = width / heads
  bool qkv_bias = false;          ///< query, key and value projections have a bias
  bool qk_norm = false;           ///< each query and key head goes through an RMSNorm before its rotation
  std::int64_t context = 0;       ///< positions that exported files promise (max_position_embeddings); 0 = seq
  double rope_theta = 1e4;
  RopeScaling rope_scaling{};
  double norm_eps = 1e-5;
  bool tied_head = false;  ///< the output head is the embedding table
  double init_std = 0.02;  ///< output projections start with init_std / sqrt(2 layers)

  std::int64_t head_dim() const { return own_head_dim > 0 ? own_head_dim : width / heads; }
  /// Of what attention gives to its output projection: the width of most models.
  std::int64_t attention_width() const { return heads * head_dim(); }
  std::int64_t qkv_width() const { return (heads + 2 * kv_heads) * head_dim(); }
  /// layers * (attention + SwiGLU matrices, gains and biases) + final gain; embedding and head not counted.
  std::int64_t non_embedding_parameters() const;
  std::int64_t parameters() const;
  /// Training FLOPs a token, forward and backward: 6 a parameter of every matrix product (the head included, the
  /// embedding look-up not) and 12 * layers * attention_width() * seq / 2 for causal attention.
  double flops_per_token() const;
};

/// A linear layer Y [T, N] = X [T, K] W^T of a block.
struct LinearShape {
  std::string name;          ///< "attention.qkv", ...
  std::int64_t outputs = 0;  ///< N
  std::int64_t inputs = 0;   ///< K
  /// Whether Y is added to the residual stream, so that dY is the stream's gradient, in F32; others are BF16.
  bool adds_to_stream = false;
  double weights() const { return static_cast<double>(outputs) * static_cast<double>(inputs); }
};
/// qkv, output, gate_up, down.
std::vector<LinearShape> block_linears(const LlamaConfig& model);

/// Reads a [model] table; `[model] file = "x"` takes the keys of models/x.toml (io/data_file.h) as defaults, and so it
/// does those of another file by its path, or of a folder in the Hugging Face layout (model/hugging_face_config.h), or
/// of what else `load` knows.
LlamaConfig read_llama_config(const ConfigTable& model);
LlamaConfig read_llama_config(const ConfigTable& model,
                              const std::function<LlamaConfig(const std::filesystem::path&)>& load);
/// A model's name with "-" for all that would need quoting somewhere.
std::string plain_name(std::string name);
/// Reads models/NAME.toml, or the config.json of a folder.
LlamaConfig load_llama_config(const std::filesystem::path& path);
/// The [model] table with every key, [model.rope_scaling] included, as read_llama_config takes it.
std::string to_toml(const LlamaConfig& model);

}  // namespace nibble
