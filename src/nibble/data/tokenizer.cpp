#include "nibble/data/tokenizer.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "nibble/data/tokenizer_backend.h"
#include "nibble/data/tokenizer_files.h"
#include "nibble/io/atomic_file.h"
#include "nibble/io/checksum.h"
#include "nibble/io/file.h"
#include "nibble/io/hugging_face_files.h"
#include "nibble/io/json.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

constexpr std::size_t kMaxCachedWords = std::size_t{1} << 18;  // about 40 MB a thread

bool is_json(std::string_view file) {
  const std::size_t first = file.find_first_not_of(" \t\r\n");
  return first != std::string_view::npos && file[first] == '{';
}

}  // namespace

const std::vector<std::int32_t>* WordCache::find(std::string_view word) const {
  const auto it = words_.find(word);
  return it == words_.end() ? nullptr : &it->second;
}

void WordCache::insert(std::string_view word, std::span<const std::int32_t> ids) {
  if (words_.size() >= kMaxCachedWords) words_.clear();
  words_.emplace(word, std::vector<std::int32_t>(ids.begin(), ids.end()));
}

Tokenizer::Tokenizer(std::string file, std::unique_ptr<const TokenizerBackend> backend)
    : file_(std::move(file)), hash_(xxh3_64(file_)), backend_(std::move(backend)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::parse(std::string file, const std::string& config, const std::string& origin) {
  auto backend = is_json(file) ? load_tokenizer_json(file, config, origin) : load_sentencepiece(file, config, origin);
  return Tokenizer(std::move(file), std::move(backend));
}

Tokenizer Tokenizer::load(const fs::path& path) {
  fs::path file = path;
  if (fs::is_directory(path)) {
    file = find_tokenizer_file(path);
    if (file.empty()) {
      user_error("'{}' holds neither {} nor {}", path.string(), kTokenizerJsonFile, kSentencePieceFile);
    }
  }
  return parse(read_file(file), tokenizer_config_beside(file), file.string());
}

void Tokenizer::save(const fs::path& path) const { write_file_atomic(path, file_); }

std::string Tokenizer::save_in(const fs::path& directory) const {
  if (!is_json(file_)) {
    save(directory / kSentencePieceFile);
    return kSentencePieceFile;
  }
  save(directory / kTokenizerJsonFile);
  nlohmann::json config = {{"eos_token", piece(eos_id())}, {"bos_token", nullptr}};
  if (bos_id() >= 0) config["bos_token"] = piece(bos_id());
  write_json_atomic(directory / kTokenizerConfigFile, config);
  return kTokenizerJsonFile;
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text) const {
  std::vector<std::int32_t> ids;
  backend_->append(text, ids, nullptr);
  return ids;
}

void Tokenizer::encode(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const {
  backend_->append(text, ids, cache);
}

void Tokenizer::encode_document(std::string_view text, std::vector<std::int32_t>& ids, WordCache* cache) const {
  encode(text, ids, cache);
  ids.push_back(eos_id());
}

void Tokenizer::check_id(std::int32_t id) const {
  if (id < 0 || id >= vocab_size()) {
    user_error("token {} is not in the tokenizer's vocabulary of {}; use the tokenizer that made the tokens", id,
               vocab_size());
  }
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  for (const std::int32_t id : ids) check_id(id);
  return backend_->decode(ids);
}

std::string Tokenizer::piece(std::int32_t id) const {
  check_id(id);
  return backend_->piece(id);
}

std::int32_t Tokenizer::find_piece(std::string_view spelling) const {
  for (std::int32_t id = 0; id < vocab_size(); ++id) {
    if (backend_->piece(id) == spelling) return id;
  }
  return -1;
}

std::int32_t Tokenizer::vocab_size() const { return backend_->vocab_size(); }
std::int32_t Tokenizer::bos_id() const { return backend_->bos_id(); }
std::int32_t Tokenizer::eos_id() const { return backend_->eos_id(); }
bool Tokenizer::adds_bos() const { return backend_->adds_bos(); }

}  // namespace nibble
