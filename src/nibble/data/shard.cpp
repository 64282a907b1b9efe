#include "nibble/data/shard.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstring>
#include <vector>

#include "nibble/tensor/error.h"

namespace nibble {

namespace {

static_assert(std::endian::native == std::endian::little, "shards are written as they lie in memory");

constexpr std::array<char, 8> kMagic = {'N', 'I', 'B', 'T', 'O', 'K', '0', '1'};
constexpr std::array<char, 8> kMaskedMagic = {'N', 'I', 'B', 'T', 'O', 'K', '0', '2'};
constexpr std::uint64_t kMaxVocab = std::uint64_t{1} << 31;  // ids are int32

struct FileHeader {
  std::array<char, 8> magic;
  std::uint32_t header_bytes;
  std::uint32_t token_bytes;
  std::uint64_t vocab_size;
  std::uint64_t tokens;
  std::uint64_t payload_checksum;
  std::uint64_t tokenizer_hash;
  std::uint64_t counted;  // 0 without a mask
  std::uint64_t header_checksum;
};
static_assert(sizeof(FileHeader) == 64);

std::uint64_t header_checksum(const FileHeader& header) {
  return xxh3_64(std::as_bytes(std::span(&header, 1)).first(offsetof(FileHeader, header_checksum)));
}

FileHeader pack(const ShardHeader& header) {
  FileHeader raw{header.masked ? kMaskedMagic : kMagic,
                 sizeof(FileHeader),
                 static_cast<std::uint32_t>(header.token_bytes()),
                 header.vocab_size,
                 header.tokens,
                 header.payload_checksum,
                 header.tokenizer_hash,
                 header.masked ? header.counted : 0,
                 0};
  raw.header_checksum = header_checksum(raw);
  return raw;
}

constexpr std::uint64_t mask_bytes(const ShardHeader& header) { return header.masked ? (header.tokens + 7) / 8 : 0; }

template <class T>
void widen(const std::byte* from, std::span<std::int32_t> to) {
  const T* tokens = reinterpret_cast<const T*>(from);
  for (std::size_t i = 0; i < to.size(); ++i) to[i] = static_cast<std::int32_t>(tokens[i]);
}

}  // namespace

ShardWriter::ShardWriter(const std::filesystem::path& path, std::int64_t vocab_size, std::uint64_t tokenizer_hash,
                         bool masked)
    : file_(path) {
  require(vocab_size >= 1 && static_cast<std::uint64_t>(vocab_size) <= kMaxVocab, "vocabulary of {}", vocab_size);
  header_.vocab_size = static_cast<std::uint64_t>(vocab_size);
  header_.tokenizer_hash = tokenizer_hash;
  header_.masked = masked;
  file_.write(std::as_bytes(std::span<const FileHeader>({FileHeader{}})));
}

void ShardWriter::append(std::span<const std::int32_t> tokens) {
  require(!header_.masked, "tokens without a mask for a shard that has one");
  write_tokens(tokens);
  header_.counted += tokens.size();
}

void ShardWriter::append(std::span<const std::int32_t> tokens, std::span<const std::uint8_t> counted) {
  require(header_.masked && counted.size() == tokens.size(), "a mask of {} for {} tokens of a shard {} a mask",
          counted.size(), tokens.size(), header_.masked ? "with" : "without");
  const std::uint64_t first = header_.tokens;
  write_tokens(tokens);
  mask_.resize(mask_bytes(header_));
  for (std::size_t i = 0; i < counted.size(); ++i) {
    if (counted[i] == 0) continue;
    mask_[(first + i) / 8] |= std::byte{1} << (first + i) % 8;
    header_.counted += 1;
  }
}

void ShardWriter::write_tokens(std::span<const std::int32_t> tokens) {
  for (const std::int32_t token : tokens) {
    require(token >= 0 && static_cast<std::uint64_t>(token) < header_.vocab_size, "token {} in a vocabulary of {}",
            token, header_.vocab_size);
  }
  std::span<const std::byte> bytes = std::as_bytes(tokens);
  std::vector<std::uint16_t> narrow;
  if (header_.token_bytes() == 2) {
    narrow.assign(tokens.begin(), tokens.end());
    bytes = std::as_bytes(std::span<const std::uint16_t>(narrow));
  }
  checksum_.update(bytes);
  file_.write(bytes);
  header_.tokens += tokens.size();
}

void ShardWriter::commit() {
  checksum_.update(mask_);
  file_.write(mask_);
  header_.payload_checksum = checksum_.digest();
  const FileHeader raw = pack(header_);
  file_.write_at(0, std::as_bytes(std::span(&raw, 1)));
  file_.commit();
}

Shard::Shard(const std::filesystem::path& path) : file_(path) {
  const std::string name = path.string();
  const std::size_t size = file_.bytes().size();
  FileHeader raw{};
  if (size > 0) std::memcpy(&raw, file_.bytes().data(), std::min(size, sizeof(raw)));
  const bool masked = raw.magic == kMaskedMagic;
  if (size < sizeof(raw.magic) || (raw.magic != kMagic && !masked)) {
    user_error("'{}' is not a token shard; make one with 'nibble data prepare'", name);
  }
  if (size < sizeof(raw)) user_error("the token shard '{}' is truncated in its header; prepare the data again", name);
  header_ = {raw.vocab_size,     raw.tokens, raw.payload_checksum,
             raw.tokenizer_hash, masked,     masked ? raw.counted : raw.tokens};
  const bool sound = raw.header_checksum == header_checksum(raw) && raw.header_bytes == sizeof(raw) &&
                     raw.vocab_size >= 1 && raw.vocab_size <= kMaxVocab &&
                     raw.token_bytes == static_cast<std::uint32_t>(header_.token_bytes()) &&
                     header_.counted <= raw.tokens;
  if (!sound) user_error("the header of the token shard '{}' is damaged; prepare the data again", name);
  // Divided, not multiplied: a header may say any number of tokens.
  const std::uint64_t mask = mask_bytes(header_);
  const std::uint64_t room = size - sizeof(raw);
  const std::uint64_t held = (room - std::min(room, mask)) / raw.token_bytes;
  if (room < mask || held != raw.tokens || (room - mask) % raw.token_bytes != 0) {
    user_error("the token shard '{}' is {}: it has room for {} tokens where its header says {}; prepare the data again",
               name, held < raw.tokens ? "truncated" : "too long", held, raw.tokens);
  }
}

std::span<const std::byte> Shard::payload() const { return file_.bytes().subspan(sizeof(FileHeader)); }
std::span<const std::byte> Shard::mask() const { return payload().last(mask_bytes(header_)); }

void Shard::copy(std::int64_t begin, std::span<std::int32_t> out) const {
  require(begin >= 0 && begin <= tokens() && static_cast<std::int64_t>(out.size()) <= tokens() - begin,
          "tokens [{}, +{}) of the {} in '{}'", begin, out.size(), tokens(), path().string());
  const std::size_t width = static_cast<std::size_t>(header_.token_bytes());
  const std::byte* from = payload().data() + static_cast<std::size_t>(begin) * width;
  if (width == 2) {
    widen<std::uint16_t>(from, out);
  } else {
    widen<std::uint32_t>(from, out);
  }
  // An id beyond the vocabulary would read past the embedding's end.
  std::uint32_t largest = 0;
  for (const std::int32_t token : out) largest = std::max(largest, static_cast<std::uint32_t>(token));
  if (!out.empty() && largest >= header_.vocab_size) {
    user_error("the token shard '{}' is damaged: token {} in a vocabulary of {}; prepare the data again",
               path().string(), largest, header_.vocab_size);
  }
}

void Shard::copy_counted(std::int64_t begin, std::span<std::uint8_t> out) const {
  require(begin >= 0 && begin <= tokens() && static_cast<std::int64_t>(out.size()) <= tokens() - begin,
          "the mask of tokens [{}, +{}) of the {} in '{}'", begin, out.size(), tokens(), path().string());
  if (!header_.masked) {
    std::fill(out.begin(), out.end(), std::uint8_t{1});
    return;
  }
  const std::span<const std::byte> bits = mask();
  auto at = static_cast<std::size_t>(begin);
  for (std::uint8_t& counts : out) {
    counts = static_cast<std::uint8_t>(bits[at / 8] >> at % 8) & 1U;
    ++at;
  }
}

void Shard::verify() const {
  if (xxh3_64(payload()) != header_.payload_checksum) {
    user_error("the token shard '{}' is damaged: its tokens do not match their checksum; prepare the data again",
               path().string());
  }
  if (!header_.masked) return;
  std::uint64_t counted = 0;
  for (const std::byte byte : mask())
    counted += static_cast<std::uint64_t>(std::popcount(std::to_integer<unsigned>(byte)));
  if (counted != header_.counted) {
    user_error(
        "the token shard '{}' is damaged: its mask counts {} tokens where its header says {}; prepare the data again",
        path().string(), counted, header_.counted);
  }
}

}  // namespace nibble
