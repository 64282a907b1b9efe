// Models as GGUF files (io/gguf.h) that llama.cpp runs: metadata, tokenizer and weights in one file. The architecture
// is the first of llama, qwen2, qwen3 that has what the model has; model/gguf_model.h lists its keys, which are all
// written, and says how rows of query and key matrices are ordered.
//
//   F32, BF16        matrices as such
//   MXFP4, NVFP4     matrices of the blocks' linear layers, as model/serving_weights.h quantises them; embedding, head
//                    and layers that stay in high precision are BF16. NVFP4's tensor scale is a tensor of its own,
//                    NAME.scale F32 [1], with which llama.cpp multiplies the product
//
// Gains and biases are F32 in every file.
#pragma once

#include <filesystem>

#include "nibble/io/gguf.h"
#include "nibble/io/tensor_source.h"
#include "nibble/model/serving_weights.h"

namespace nibble {

struct GgufExport {
  GgmlType type = GgmlType::F32;  ///< F32, BF16, MXFP4 or NVFP4
  ServingPlan plan{};             ///< of MXFP4 and NVFP4
  GgufMetadata tokenizer{};       ///< data/gguf_vocabulary.h; one token a row of the embedding
};

/// Writes the file, all or nothing. UserError where the weights are not the model's, rows are not whole blocks, or
/// llama.cpp has no architecture for the model or its RoPE scaling.
void export_gguf(const LlamaConfig& model, const TensorSource& weights, const GgufExport& options,
                 const std::filesystem::path& file);

}  // namespace nibble
