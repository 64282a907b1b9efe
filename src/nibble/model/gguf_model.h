// Models in GGUF files, as llama.cpp keeps them (io/gguf.h). What runs one:
//
//   GgufModel file("model.gguf");
//   Llama model(file.config(), recipe, seed, dtype, device);
//   load_weights(file, model);                                    model/hugging_face.h
//   Tokenizer tokenizer = gguf_tokenizer(file.file());            data/gguf_tokenizer.h
//
// Read are the architectures llama (Llama, Mistral, SmolLM2, TinyLlama ...), qwen2 and qwen3, weights of every type
// that io/ggml_blocks.h decodes. Everything that would change what the model computes and that nibble does not do is
// refused by its name: another architecture, a key of the architecture that is not listed here, RoPE scalings but
// linear and Llama 3's, partial rotary embeddings, values of another width than keys, tensors that nibble has no place
// for.
//
//   ARCH.block_count               layers        ARCH.rope.freq_base                rope_theta (10000 where absent)
//   ARCH.embedding_length          width         ARCH.rope.dimension_count          must be the heads' dimensions
//   ARCH.feed_forward_length       ffn           ARCH.rope.scaling.type, .factor    none or linear
//   ARCH.attention.head_count      heads         ARCH.attention.layer_norm_rms_epsilon   norm_eps
//   ARCH.attention.head_count_kv   kv_heads      ARCH.context_length                context
//   ARCH.attention.key_length      head_dim      ARCH.attention.sliding_window      limits the context
//
// The vocabulary is the rows of token_embd.weight; without output.weight the head is tied. rope_freqs.weight, a divisor
// of each frequency, is Llama 3's scaling: its low_freq_factor is 1, its high_freq_factor 4, and the rest is found from
// the divisors. Tensors have their Hugging Face names here; rows of llama's query and key matrices, which llama.cpp
// orders so that RoPE pairs dimensions 2 j and 2 j + 1 of a head, are back in their own order:
//
//   row of a head in the file   0  1        2  3            ...      row 2 j + p of the file is row j + p head_dim / 2
//   row of a head here          0  half     1  half + 1     ...
#pragma once

#include <filesystem>
#include <map>
#include <string>

#include "nibble/io/gguf.h"
#include "nibble/io/tensor_source.h"
#include "nibble/model/config.h"

namespace nibble {

class GgufModel final : public TensorSource {
 public:
  /// Opens and validates the file; UserError for what is not supported, the tensors' shapes excepted (check_weights).
  explicit GgufModel(const std::filesystem::path& path);

  const GgufFile& file() const { return file_; }
  /// Its training sequence length, which the file does not have, is the model's context, 2048 at most; its name is
  /// the file's, without the suffix.
  const LlamaConfig& config() const { return config_; }

  const std::filesystem::path& path() const override { return file_.path(); }
  /// Under their Hugging Face names; those that have none under their own. rope_freqs.weight is not among them.
  std::vector<std::string> names() const override;
  bool contains(const std::string& name) const override { return stored_.contains(name); }
  std::vector<std::int64_t> shape(const std::string& name) const override;
  void read_floats(const std::string& name, const Tensor& to) const override;
  std::span<const std::byte> bytes_as(DType dtype, const std::string& name) const override;

 private:
  /// Heads of a matrix whose rows are to be put in order; 0 = none.
  std::int64_t interleaved_heads(const std::string& name) const;
  const std::string& stored_name(const std::string& name) const;

  GgufFile file_;
  bool interleaved_ = false;                   // query and key rows are llama.cpp's
  std::map<std::string, std::string> stored_;  // Hugging Face name -> the file's
  LlamaConfig config_;
};

/// The file's name of a tensor for its Hugging Face name, such as "blk.3.attn_q.weight" for
/// "model.layers.3.self_attn.q_proj.weight"; empty where llama.cpp has none.
std::string gguf_tensor_name(const std::string& hugging_face_name);
/// The file's name of the factor of a tensor, F32 [1]: "blk.3.attn_q.scale" for "blk.3.attn_q.weight"; empty for other
/// names. Files have it where the type is NVFP4, and where such a tensor was decoded since; llama.cpp asks for no type.
/// read_floats multiplies by it, and bytes_as hands out nothing beside it.
std::string gguf_scale_name(const std::string& weight);

}  // namespace nibble
