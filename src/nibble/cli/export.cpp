#include "nibble/train/export.h"

#include <array>
#include <utility>

#include "nibble/cli/arguments.h"
#include "nibble/train/import.h"

namespace nibble {

namespace {

using GgmlName = std::pair<const char*, GgmlType>;
constexpr std::array<GgmlName, 4> kGgufTypes = {
    {{"f32", GgmlType::F32}, {"bf16", GgmlType::BF16}, {"mxfp4", GgmlType::MXFP4}, {"nvfp4", GgmlType::NVFP4}}};

class ExportCommand final : public Command {
 public:
  std::string name() const override { return "export"; }
  std::string summary() const override { return "write a checkpoint as other programs read it"; }
  std::string examples() const override {
    return "  nibble export --format hf --checkpoint runs/tuned --tokenizer smollm2-135m --out tuned-hf\n"
           "  nibble export --format hf --checkpoint runs/mine/checkpoints/step-00000500 --dtype bf16 --out mine-hf\n"
           "  nibble export --format nvfp4 --checkpoint runs/tuned --tokenizer smollm2-135m --out tuned-nvfp4\n"
           "  nibble export --format gguf --dtype mxfp4 --checkpoint runs/mine --out mine-mxfp4.gguf";
  }
  void declare(Arguments& a) override {
    a.text("--format", format_,
           "hf: config.json and safetensors, as the Hugging Face tools read them; nvfp4, mxfp4: the same with linear "
           "layers in four bits, for vLLM (compressed-tensors); gguf: one file for llama.cpp");
    a.path("--checkpoint", checkpoint_, "run folder, or one checkpoint folder of it", true);
    a.path("--out", out_, "folder, or file of gguf, to write; it must not exist", true);
    a.text("--dtype", dtype_,
           "of the weights: f32 (exact, hf's default) or bf16 (the others'); in gguf also mxfp4 and nvfp4, which are "
           "those of the linear layers");
    a.text("--codes", codes_,
           "four-bit codes: recipe (those that the run trained with), standard (the format's rule, all layers), or "
           "auto: the recipe's where its forward has the format");
    a.text("--inputs", inputs_, "of the linear layers in mxfp4's folder: bf16, or fp4, quantised by the server, too");
    a.integer("--shard-bytes", shard_bytes_, "most bytes of a weights file");
    a.path("--tokenizer", tokenizer_, "folder whose tokenizer files go along; gguf takes the run's where it is empty");
  }
  int run() override {
    if (shard_bytes_ < 1) user_error("--shard-bytes is {}, must be at least 1", shard_bytes_);
    if (inputs_ != "bf16" && inputs_ != "fp4") user_error("--inputs is '{}', must be bf16 or fp4", inputs_);
    if (inputs_ == "fp4" && format_ != "mxfp4" && format_ != "nvfp4") {
      user_error("--inputs fp4 belongs to the formats mxfp4 and nvfp4");
    }
    std::string quantised;
    if (format_ == "hf") {
      export_checkpoint(checkpoint_, folder_options("f32"), out_);
    } else if (format_ == "nvfp4" || format_ == "mxfp4") {
      const ServingFormat format = format_ == "nvfp4" ? ServingFormat::Nvfp4 : ServingFormat::Mxfp4;
      quantised =
          export_compressed_tensors({checkpoint_, rule()}, format, inputs_ == "fp4", folder_options("bf16"), out_);
    } else if (format_ == "gguf") {
      quantised = export_gguf({checkpoint_, rule()}, gguf_type(), tokenizer_, out_);
    } else {
      user_error("the format '{}' is not hf, nvfp4, mxfp4 or gguf", format_);
    }
    fmt::print("wrote {}{}{}\n", out_.string(), quantised.empty() ? "" : ": ", quantised);
    return 0;
  }

 private:
  HuggingFaceExport folder_options(const std::string& default_dtype) const {
    const std::string& dtype = dtype_.empty() ? default_dtype : dtype_;
    if (dtype != "f32" && dtype != "bf16") user_error("the dtype '{}' is not f32 or bf16", dtype);
    HuggingFaceExport options;
    options.dtype = dtype == "f32" ? DType::F32 : DType::BF16;
    options.most_bytes = static_cast<std::uint64_t>(shard_bytes_);
    options.tokenizer = tokenizer_;
    return options;
  }
  GgmlType gguf_type() const {
    for (const auto& [type_name, type] : kGgufTypes) {
      if ((dtype_.empty() ? "bf16" : dtype_) == type_name) return type;
    }
    user_error("the dtype '{}' is not f32, bf16, mxfp4 or nvfp4", dtype_);
  }
  ServingRule rule() const {
    if (codes_ == "auto") return ServingRule::Auto;
    if (codes_ == "recipe") return ServingRule::AsTrained;
    if (codes_ == "standard") return ServingRule::Standard;
    user_error("--codes is '{}', must be auto, recipe or standard", codes_);
  }

  std::string format_ = "hf", dtype_, codes_ = "auto", inputs_ = "bf16";
  std::filesystem::path checkpoint_, out_, tokenizer_;
  std::int64_t shard_bytes_ = static_cast<std::int64_t>(HuggingFaceExport{}.most_bytes);
};

}  // namespace

std::unique_ptr<Command> make_export_command() { return std::make_unique<ExportCommand>(); }

}  // namespace nibble
