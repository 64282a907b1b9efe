#include "nibble/train/import.h"

#include "nibble/cli/arguments.h"
#include "nibble/train/checkpoint.h"

namespace nibble {

namespace {

class ImportCommand final : public Command {
 public:
  std::string name() const override { return "import"; }
  std::string summary() const override { return "make a checkpoint of a model of the Hugging Face tools"; }
  std::string examples() const override {
    return "  nibble import --from smollm2-135m --out runs/smollm2\n"
           "  nibble import --from llama-3.2-1b --out runs/llama --seq 4096";
  }
  void declare(Arguments& a) override {
    a.path("--from", from_, "folder of config.json and safetensors", true);
    a.path("--out", out_, "folder of the run whose first checkpoint this becomes", true);
    a.integer("--seq", seq_, "tokens that the model sees at most; 0: its context, but 2048 at most");
  }
  int run() override {
    import_hugging_face(from_, out_, seq_);
    const LlamaConfig model = read_hugging_face_config(from_);
    fmt::print("{}: {} parameters in {}\n", model.name, model.parameters(), find_checkpoint(out_).string());
    return 0;
  }

 private:
  std::filesystem::path from_, out_;
  std::int64_t seq_ = 0;
};

}  // namespace

std::unique_ptr<Command> make_import_command() { return std::make_unique<ImportCommand>(); }

}  // namespace nibble
