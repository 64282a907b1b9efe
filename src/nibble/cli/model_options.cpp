#include "nibble/cli/model_options.h"

namespace nibble {

void ModelOptions::declare(Arguments& a) {
  a.path("--model", model_,
         "run folder, one of its checkpoint folders, folder of config.json and safetensors, or GGUF file", true);
  a.path("--tokenizer", tokenizer_, "SentencePiece model or tokenizer.json; by default the model's own");
  a.integer("--seq", seq_,
            "tokens that the model reads at most; 0: as many as in its training, else its whole context");
  a.text("--device", device_, "where the model computes: cpu, cuda or auto (the GPU where there is one)");
}

void ModelOptions::declare_bos(Arguments& a) {
  a.text("--bos", bos_,
         "whether texts begin with <s>: yes, no or auto (where the tokenizer of a model that nibble did not train says "
         "so)");
}

StoredModel ModelOptions::open() const {
  if (seq_ < 0) user_error("--seq is {}, must not be negative", seq_);
  StoredModel model = StoredModel::open(model_);
  if (has_seq()) model.set_seq(seq_);
  return model;
}

bool ModelOptions::bos(const StoredModel& model, const Tokenizer& tokenizer) const {
  if (bos_ == "auto") return model.texts_begin_with_bos(tokenizer);
  if (bos_ != "yes" && bos_ != "no") user_error("--bos is '{}', must be yes, no or auto", bos_);
  if (bos_ == "yes" && tokenizer.bos_id() < 0) user_error("the tokenizer has no <s>, which --bos yes needs");
  return bos_ == "yes";
}

}  // namespace nibble
