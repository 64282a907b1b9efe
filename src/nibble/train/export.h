// From a checkpoint to files that servers read in four bits, and to GGUF.
#pragma once

#include <filesystem>
#include <string>

#include "nibble/io/ggml_type.h"
#include "nibble/model/hugging_face.h"
#include "nibble/model/serving_weights.h"

namespace nibble {

struct ServingExport {
  std::filesystem::path checkpoint;  ///< or a run, whose newest checkpoint is taken
  ServingRule rule = ServingRule::Auto;
};

/// Writes `folder` (model/compressed_tensors.h) and returns in words how the weights were quantised.
std::string export_compressed_tensors(const ServingExport& what, ServingFormat format, bool quantised_inputs,
                                      const HuggingFaceExport& options, const std::filesystem::path& folder);

/// Writes `file` (model/gguf_export.h), which must not exist, with the tokenizer in `tokenizer` (a folder or a file;
/// empty = that of the run's data), and returns in words how the weights were quantised; nothing for F32 and BF16.
std::string export_gguf(const ServingExport& what, GgmlType type, const std::filesystem::path& tokenizer,
                        const std::filesystem::path& file);

}  // namespace nibble
