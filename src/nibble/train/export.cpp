#include "nibble/train/export.h"

#include "nibble/data/gguf_vocabulary.h"
#include "nibble/io/ggml_blocks.h"
#include "nibble/model/compressed_tensors.h"
#include "nibble/model/gguf_export.h"
#include "nibble/train/checkpoint.h"
#include "nibble/train/config.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// A checkpoint's weights, and what they were trained as.
struct Source {
  explicit Source(const fs::path& checkpoint_or_run)
      : checkpoint(find_checkpoint(checkpoint_or_run)),
        state(load_state(checkpoint)),
        config(read_train_config(ConfigTable::parse_text(state.config, checkpoint.string()))),
        recipe(parse_recipe(state.recipe, checkpoint.string())),
        weights(checkpoint) {}

  ServingPlan plan(ServingFormat format, ServingRule rule, std::int64_t columns) const {
    return plan_serving(config.model, recipe, state.stage.stage, format, rule, columns);
  }

  fs::path checkpoint;
  TrainState state;
  TrainConfig config;
  Recipe recipe;
  SafetensorsFolder weights;
};

}  // namespace

std::string export_compressed_tensors(const ServingExport& what, ServingFormat format, bool quantised_inputs,
                                      const HuggingFaceExport& options, const fs::path& folder) {
  const Source source(what.checkpoint);
  const ServingPlan plan = source.plan(format, what.rule, serving_block(format));
  export_compressed_tensors(source.config.model, source.weights, {plan, quantised_inputs, options}, folder);
  return plan.describe(source.recipe);
}

std::string export_gguf(const ServingExport& what, GgmlType type, const fs::path& tokenizer, const fs::path& file) {
  if (fs::exists(file)) user_error("'{}' is there already; give another --out", file.string());
  const Source source(what.checkpoint);
  GgufExport options{.type = type};
  const bool fp4 = type == GgmlType::MXFP4 || type == GgmlType::NVFP4;
  if (fp4) {
    const ServingFormat format = type == GgmlType::MXFP4 ? ServingFormat::Mxfp4 : ServingFormat::Nvfp4;
    options.plan = source.plan(format, what.rule, ggml_type_info(type).block_size);
  }
  const fs::path vocabulary = tokenizer.empty() ? source.config.data : tokenizer;
  if (!fs::exists(vocabulary)) {
    user_error("there is no tokenizer at '{}': give the model's with --tokenizer", vocabulary.string());
  }
  options.tokenizer = gguf_vocabulary(vocabulary, source.config.model.vocab);
  export_gguf(source.config.model, source.weights, options, file);
  return fp4 ? options.plan.describe(source.recipe) : "";
}

}  // namespace nibble
