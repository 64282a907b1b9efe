#include "nibble/cli/arguments.h"
#include "nibble/train/import.h"

namespace nibble {

namespace {

class ExportCommand final : public Command {
 public:
  std::string name() const override { return "export"; }
  std::string summary() const override { return "write a checkpoint as other programs read it"; }
  std::string examples() const override {
    return "  nibble export --format hf --checkpoint runs/tuned --tokenizer smollm2-135m --out tuned-hf\n"
           "  nibble export --format hf --checkpoint runs/mine/checkpoints/step-00000500 --dtype bf16 --out mine-hf";
  }
  void declare(Arguments& a) override {
    a.text("--format", format_, "hf: config.json and safetensors, as the Hugging Face tools read them");
    a.path("--checkpoint", checkpoint_, "run folder, or one checkpoint folder of it", true);
    a.path("--out", out_, "folder to write; it must not exist", true);
    a.text("--dtype", dtype_, "of the weights: f32 (exact) or bf16");
    a.integer("--shard-bytes", shard_bytes_, "most bytes of a weights file");
    a.path("--tokenizer", tokenizer_, "folder whose tokenizer files go along");
  }
  int run() override {
    if (format_ != "hf") user_error("the format '{}' is not hf", format_);
    if (dtype_ != "f32" && dtype_ != "bf16") user_error("the dtype '{}' is not f32 or bf16", dtype_);
    if (shard_bytes_ < 1) user_error("--shard-bytes is {}, must be at least 1", shard_bytes_);
    const HuggingFaceExport options{.dtype = dtype_ == "f32" ? DType::F32 : DType::BF16,
                                    .most_bytes = static_cast<std::uint64_t>(shard_bytes_),
                                    .tokenizer = tokenizer_};
    export_checkpoint(checkpoint_, options, out_);
    fmt::print("wrote {}\n", out_.string());
    return 0;
  }

 private:
  std::string format_ = "hf", dtype_ = "f32";
  std::filesystem::path checkpoint_, out_, tokenizer_;
  std::int64_t shard_bytes_ = static_cast<std::int64_t>(HuggingFaceExport{}.most_bytes);
};

}  // namespace

std::unique_ptr<Command> make_export_command() { return std::make_unique<ExportCommand>(); }

}  // namespace nibble
