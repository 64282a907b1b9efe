#include "nibble/train/import.h"

#include "nibble/cli/arguments.h"
#include "nibble/train/stored_model.h"

namespace nibble {

namespace {

class ImportCommand final : public Command {
 public:
  std::string name() const override { return "import"; }
  std::string summary() const override { return "make a checkpoint of a model of the Hugging Face tools or llama.cpp"; }
  std::string examples() const override {
    return "  nibble import --from smollm2-135m --out runs/smollm2\n"
           "  nibble import --from llama-3.2-1b.Q4_K_M.gguf --out runs/llama --seq 4096\n"
           "  nibble import --from model.gguf --format hf --out model-hf";
  }
  void declare(Arguments& a) override {
    a.path("--from", from_, "folder of config.json and safetensors, or a GGUF file", true);
    a.path("--out", out_, "folder of the run whose first checkpoint this becomes, or folder to write", true);
    a.text("--format", format_,
           "checkpoint, or hf: config.json, safetensors and the tokenizer, from a GGUF file mostly");
    a.integer("--seq", seq_, "tokens that the model sees at most; 0: its context, but 2048 at most");
    a.text("--dtype", dtype_, "of the weights by --format hf: f32 (exact) or bf16");
  }
  int run() override {
    if (format_ != "checkpoint" && format_ != "hf") user_error("the format '{}' is not checkpoint or hf", format_);
    if (dtype_ != "f32" && dtype_ != "bf16") user_error("the dtype '{}' is not f32 or bf16", dtype_);
    if (format_ == "hf") {
      if (seq_ != 0)
        user_error("--seq is for a checkpoint; a folder of the Hugging Face tools has the model's context");
      convert_to_hugging_face(from_, {.dtype = dtype_ == "f32" ? DType::F32 : DType::BF16}, out_);
      fmt::print("wrote {}\n", out_.string());
      return 0;
    }
    if (dtype_ != "f32") user_error("--dtype {} is for --format hf; a checkpoint is F32", dtype_);
    if (std::filesystem::is_regular_file(from_)) {
      import_gguf(from_, out_, seq_);
    } else {
      import_hugging_face(from_, out_, seq_);
    }
    const StoredModel model = StoredModel::open_checkpoint(out_);
    fmt::print("{}: {} parameters in {}\n", model.config().name, model.config().parameters(), model.path().string());
    return 0;
  }

 private:
  std::filesystem::path from_, out_;
  std::string format_ = "checkpoint", dtype_ = "f32";
  std::int64_t seq_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_import_command() { return std::make_unique<ImportCommand>(); }

}  // namespace nibble
