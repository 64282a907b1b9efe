#include "nibble/train/export.h"

#include "nibble/data/gguf_vocabulary.h"
#include "nibble/io/ggml_blocks.h"
#include "nibble/model/compressed_tensors.h"
#include "nibble/model/gguf_export.h"
#include "nibble/train/stored_model.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// A checkpoint's weights, and what they were trained as.
struct Source {
  explicit Source(const fs::path& checkpoint_or_run)
      : stored(StoredModel::open_checkpoint(checkpoint_or_run)), recipe(*stored.recipe()), weights(stored.path()) {}

  const LlamaConfig& model() const { return stored.config(); }
  ServingPlan plan(ServingFormat format, ServingRule rule, std::int64_t columns) const {
    return plan_serving(model(), recipe, stored.stage(), format, rule, columns);
  }

  StoredModel stored;
  Recipe recipe;
  SafetensorsFolder weights;
};

}  // namespace

std::string export_compressed_tensors(const ServingExport& what, ServingFormat format, bool quantised_inputs,
                                      const HuggingFaceExport& options, const fs::path& folder) {
  const Source source(what.checkpoint);
  const ServingPlan plan = source.plan(format, what.rule, serving_block(format));
  export_compressed_tensors(source.model(), source.weights, {plan, quantised_inputs, options}, folder);
  return plan.describe(source.recipe);
}

std::string export_gguf(const ServingExport& what, GgmlType type, const fs::path& tokenizer, const fs::path& file) {
  if (fs::exists(file)) user_error("'{}' is there already; give another --out", file.string());
  const Source source(what.checkpoint);
  GgufExport options{.type = type};
  if (ggml_is_fp4(type)) {
    const ServingFormat format = type == GgmlType::MXFP4 ? ServingFormat::Mxfp4 : ServingFormat::Nvfp4;
    options.plan = source.plan(format, what.rule, ggml_type_info(type).block_size);
  }
  options.tokenizer = gguf_vocabulary(source.stored.tokenizer_place(tokenizer), source.model().vocab);
  export_gguf(source.model(), source.weights, options, file);
  return ggml_is_fp4(type) ? options.plan.describe(source.recipe) : "";
}

}  // namespace nibble
