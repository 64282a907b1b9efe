#include "nibble/data/prepare.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <utility>

#include "nibble/data/chat_record.h"
#include "nibble/data/tokenizer.h"
#include "nibble/tensor/error.h"
#include "nibble/tensor/parallel.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

// Enough text to keep the threads busy between two reads, and a progress figure a second on a slow machine.
constexpr std::size_t kBatchBytes = std::size_t{1} << 20;

/// Writes the shards of one split: each but the last holds exactly `limit` tokens.
class SplitWriter {
 public:
  SplitWriter(fs::path directory, std::string stem, std::int64_t limit, const Tokenizer& tokenizer, bool masked)
      : directory_(std::move(directory)),
        stem_(std::move(stem)),
        limit_(limit),
        tokenizer_(tokenizer),
        masked_(masked) {}

  /// `counted` is empty where the shards have no mask.
  void add(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> counted, std::size_t text_bytes) {
    meta_.documents += 1;
    meta_.bytes += static_cast<std::int64_t>(text_bytes);
    meta_.tokens += static_cast<std::int64_t>(tokens.size());
    meta_.counted += masked_ ? std::count(counted.begin(), counted.end(), 1) : static_cast<std::int64_t>(tokens.size());
    while (!tokens.empty()) {
      if (!shard_) open();
      const auto room = static_cast<std::size_t>(limit_ == 0 ? INT64_MAX : limit_ - shard_->tokens());
      const auto piece = tokens.first(std::min(room, tokens.size()));
      if (masked_) {
        shard_->append(piece, counted.first(piece.size()));
        counted = counted.subspan(piece.size());
      } else {
        shard_->append(piece);
      }
      tokens = tokens.subspan(piece.size());
      if (shard_->tokens() == limit_) close();
    }
  }
  SplitMeta finish() {
    close();
    return meta_;
  }
  std::int64_t tokens() const { return meta_.tokens; }
  std::int64_t documents() const { return meta_.documents; }
  std::int64_t counted() const { return meta_.counted; }

 private:
  void open() {
    meta_.shards.push_back(limit_ == 0 ? stem_ + ".bin" : fmt::format("{}-{:05}.bin", stem_, meta_.shards.size()));
    shard_.emplace(directory_ / meta_.shards.back(), tokenizer_.vocab_size(), tokenizer_.hash(), masked_);
  }
  void close() {
    if (shard_) shard_->commit();
    shard_.reset();
  }

  fs::path directory_;
  std::string stem_;
  std::int64_t limit_;  // 0: one file without a number
  const Tokenizer& tokenizer_;
  bool masked_;
  std::optional<ShardWriter> shard_;
  SplitMeta meta_;
};

/// Whether a document belongs to the validation split.
bool chosen_for_validation(std::string_view document, double fraction) {
  return static_cast<double>(xxh3_64(document) >> 11) * 0x1p-53 < fraction;
}

class Preparation {
 public:
  Preparation(const PrepareOptions& options, const fs::path& directory)
      : options_(options),
        directory_(directory),
        tokenizer_(Tokenizer::load(options.tokenizer)),
        train_(directory, "train", options.shard_tokens, tokenizer_, options.chat),
        valid_(directory, "valid", 0, tokenizer_, options.chat),
        caches_(static_cast<std::size_t>(omp_get_max_threads())) {
    if (options.chat) chat_.emplace(tokenizer_, options.chat_template);
  }

  DatasetMeta run() {
    ReaderOptions how = options_.reader;
    if (chat_) {
      how.format = InputFormat::Jsonl;
      how.json_field.clear();  // whole lines
    }
    TextReader inputs(options_.inputs, how);
    std::optional<TextReader> valid_inputs;
    if (!options_.valid_inputs.empty()) valid_inputs.emplace(options_.valid_inputs, how);
    progress_.file_bytes_total = inputs.file_bytes_total() + (valid_inputs ? valid_inputs->file_bytes_total() : 0);
    tokenise(inputs, options_.valid_fraction);
    if (valid_inputs) tokenise(*valid_inputs, 1);
    check();
    DatasetMeta meta{tokenizer_.vocab_size(),
                     tokenizer_.hash(),
                     train_.finish(),
                     valid_.finish(),
                     tokenizer_.save_in(directory_),
                     options_.chat,
                     has_messages_ ? chat_->template_name() : ""};
    write_dataset_meta(directory_, meta);
    return meta;
  }

 private:
  struct Document {
    std::string text{}, where{};
    MaskedTokens tokens{};
    bool has_messages = false;
    std::string refusal{};
  };

  /// What is wrong with a record is kept, so that the first one is named whichever thread is faster.
  void encode(Document& document) const {
    WordCache* cache = &caches_[static_cast<std::size_t>(omp_get_thread_num())];
    if (!chat_) return tokenizer_.encode_document(document.text, document.tokens.ids, cache);
    try {
      const ChatRecord record = parse_chat_record(document.text, document.where);
      document.has_messages = !record.messages.empty();
      chat_->encode(record, document.where, document.tokens, cache);
    } catch (const UserError& error) {
      document.refusal = error.what();
    }
  }

  /// Batch by batch: read, tokenise in parallel, write in order.
  void tokenise(TextReader& reader, double valid_fraction) {
    const std::uint64_t bytes_before = progress_.file_bytes_done;
    const std::size_t batch_bytes = kBatchBytes * static_cast<std::size_t>(omp_get_max_threads());
    std::vector<Document> documents;
    for (bool more = true; more;) {
      documents.clear();
      std::size_t bytes = 0;
      std::string document;
      while (bytes < batch_bytes && (more = reader.next(document))) {
        bytes += document.size();
        documents.push_back({.text = std::move(document), .where = chat_ ? reader.where() : ""});
      }
      parallel_for(static_cast<std::int64_t>(documents.size()), 1,
                   [&](std::int64_t b, std::int64_t) { encode(documents[static_cast<std::size_t>(b)]); });
      for (const Document& d : documents) {
        if (!d.refusal.empty()) user_error("{}", d.refusal);
        const bool valid = chosen_for_validation(d.text, valid_fraction);
        (valid ? valid_ : train_).add(d.tokens.ids, d.tokens.counted, d.text.size());
        progress_.cut_borders += d.tokens.cut_borders;
        has_messages_ = has_messages_ || d.has_messages;
      }
      progress_.file_bytes_done = bytes_before + reader.file_bytes_read();
      progress_.documents = train_.documents() + valid_.documents();
      progress_.tokens = train_.tokens() + valid_.tokens();
      progress_.counted = train_.counted() + valid_.counted();
      if (options_.progress) options_.progress(progress_);
    }
  }

  void check() const {
    if (train_.documents() == 0) {
      user_error("the inputs leave no document for training ({} for validation)", valid_.documents());
    }
    if (valid_.documents() == 0 && (options_.valid_fraction > 0 || !options_.valid_inputs.empty())) {
      user_error("none of the {} documents fell into the validation split; give validation inputs or a larger fraction",
                 train_.documents());
    }
  }

  const PrepareOptions& options_;
  fs::path directory_;
  Tokenizer tokenizer_;
  SplitWriter train_;
  SplitWriter valid_;
  mutable std::vector<WordCache> caches_;  // one a thread
  std::optional<ChatEncoder> chat_;
  bool has_messages_ = false;
  PrepareProgress progress_;
};

void check_options(const PrepareOptions& options) {
  if (!(options.valid_fraction >= 0 && options.valid_fraction < 1)) {
    user_error("the validation fraction {} is not in [0, 1)", options.valid_fraction);
  }
  if (options.valid_fraction > 0 && !options.valid_inputs.empty()) {
    user_error("give either a validation fraction or validation inputs, not both");
  }
  if (!options.chat && !options.chat_template.empty()) {
    user_error("a chat template is for records of prompts and completions; ask for these with --chat");
  }
  if (options.shard_tokens < 1) user_error("a shard cannot hold {} tokens; give 1 or more", options.shard_tokens);
  const auto from_pipe = [](const std::vector<std::string>& v) { return std::count(v.begin(), v.end(), "-") > 0; };
  if (from_pipe(options.inputs) && from_pipe(options.valid_inputs)) {
    user_error("standard input ('-') cannot be both training and validation data");
  }
}

}  // namespace

DatasetMeta prepare_dataset(const PrepareOptions& options) {
  check_options(options);
  // Only a data set is ever replaced: a mistyped output must not cost anything else.
  std::error_code error;
  const bool occupied = fs::is_directory(options.output, error) && !fs::is_empty(options.output, error);
  if (options.replace && occupied) read_dataset_meta(options.output);
  AtomicDirectory directory(options.output, options.replace ? Existing::Replace : Existing::Refuse);
  DatasetMeta meta = Preparation(options, directory.path()).run();
  directory.commit();
  return meta;
}

}  // namespace nibble
