#include "nibble/cli/arguments.h"
#include "nibble/data/prepare.h"
#include "nibble/io/progress.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

class DataPrepare final : public Command {
 public:
  std::string name() const override { return "data prepare"; }
  std::string summary() const override { return "turn text, or prompts and completions, into token shards"; }
  std::string examples() const override {
    return "  nibble data prepare --tokenizer tok.model --input 'corpus/*.jsonl.gz' --valid-fraction 0.01 --out "
           "data/mine\n"
           "  zstd -dc big.zst | nibble data prepare --tokenizer tok.model --input - --valid held-out.txt --out "
           "data/mine\n"
           "  nibble data prepare --tokenizer smollm2-135m --chat --input 'chats/*.jsonl' --valid-fraction 0.02 --out "
           "data/chats";
  }
  void declare(Arguments& a) override {
    a.path("--tokenizer", options_.tokenizer, "SentencePiece model or tokenizer.json", true);
    a.texts("--input", options_.inputs, "training text: files, globs or - (.txt .jsonl, also .gz .zst)", true);
    a.texts("--valid", options_.valid_inputs, "validation text");
    a.number("--valid-fraction", options_.valid_fraction, "share of the documents held out for validation");
    a.path("--out", options_.output, "folder of the token shards", true);
    a.text("--split", split_, "what a document is in plain text: separator, line or file");
    a.text("--separator", options_.reader.separator, "line that ends a document");
    a.text("--field", options_.reader.json_field, "field of .jsonl objects that holds the text");
    a.flag("--chat", options_.chat,
           "JSON lines of {prompt, completion} or {messages}: only what the model is to write counts in the loss");
    a.text("--template", options_.chat_template,
           "how messages become a text: a name in chat_templates/ or a file; by default by the tokenizer's tokens");
    a.integer("--shard-tokens", options_.shard_tokens, "tokens of a training shard");
    a.flag("--replace", options_.replace, "replace an existing data set");
  }
  int run() override {
    options_.reader.split = split();
    const ReaderOptions plain;
    if (options_.chat && (options_.reader.split != plain.split || options_.reader.separator != plain.separator ||
                          options_.reader.json_field != plain.json_field)) {
      user_error("--split, --separator and --field say what a document of text is; with --chat it is a record");
    }
    std::unique_ptr<Progress> progress;
    PrepareProgress last;
    options_.progress = [&](const PrepareProgress& p) {
      last = p;
      const auto total = static_cast<std::int64_t>(p.file_bytes_total);
      if (!progress) progress = std::make_unique<Progress>("tokenise", total);
      progress->update(static_cast<std::int64_t>(p.file_bytes_done),
                       options_.chat
                           ? fmt::format("{:.1f} M tokens, {:.1f} M counted", static_cast<double>(p.tokens) * 1e-6,
                                         static_cast<double>(p.counted) * 1e-6)
                           : fmt::format("{:.1f} M tokens", static_cast<double>(p.tokens) * 1e-6));
    };
    const DatasetMeta meta = prepare_dataset(options_);
    if (progress) progress->finish();
    fmt::print("{}: {} training tokens in {} documents, {} validation tokens\n", options_.output.string(),
               meta.train.tokens, meta.train.documents, meta.valid.tokens);
    if (options_.chat) {
      fmt::print("{} of the training tokens and {} of the validation tokens count in the loss{}\n", meta.train.counted,
                 meta.valid.counted,
                 meta.chat_template.empty() ? "" : fmt::format("; chat template '{}'", meta.chat_template));
    }
    if (last.cut_borders > 0) {
      fmt::print(
          "{} times a token would have spanned the border between what counts and what does not, and both sides were "
          "encoded by themselves: begin completions with the blank, rather than end prompts with it\n",
          last.cut_borders);
    }
    return 0;
  }

 private:
  DocumentSplit split() const {
    if (split_ == "separator") return DocumentSplit::Separator;
    if (split_ == "line") return DocumentSplit::Line;
    if (split_ == "file") return DocumentSplit::File;
    user_error("--split '{}' is not one of separator, line, file", split_);
  }
  PrepareOptions options_;
  std::string split_ = "separator";
};

}  // namespace

std::unique_ptr<Command> make_data_prepare_command() { return std::make_unique<DataPrepare>(); }

}  // namespace nibble
