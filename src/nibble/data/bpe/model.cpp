#include "nibble/data/bpe/model.h"

#include <fmt/core.h>

#include <algorithm>
#include <bit>
#include <utility>

#include "nibble/data/utf8.h"

namespace nibble::bpe {

namespace {

std::uint64_t pair_of(std::int32_t left, std::int32_t right) {
  return std::uint64_t{static_cast<std::uint32_t>(left)} << 32 | static_cast<std::uint32_t>(right);
}

/// Printable bytes of Latin-1 stand for themselves, the others for the characters from U+0100 on, in their order.
char32_t character_of(unsigned byte) {
  const auto printable = [](unsigned b) { return (b >= '!' && b <= '~') || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE; };
  if (printable(byte)) return byte;
  char32_t c = 0x100;
  for (unsigned b = 0; b < byte; ++b) c += printable(b) ? 0 : 1;
  return c;
}

}  // namespace

const std::array<std::string, 256>& byte_spellings() {
  static const std::array<std::string, 256> spellings = [] {
    std::array<std::string, 256> all;
    for (unsigned b = 0; b < 256; ++b) append_utf8(character_of(b), all[b]);
    return all;
  }();
  return spellings;
}

bool spelled_bytes(std::string_view spelling, std::string& bytes) {
  static const std::array<int, 0x144> byte_of = [] {  // 68 bytes are not printable: U+0100 to U+0143
    std::array<int, 0x144> all;
    all.fill(-1);
    for (unsigned b = 0; b < 256; ++b) all[character_of(b)] = static_cast<int>(b);
    return all;
  }();
  bytes.clear();
  while (!spelling.empty()) {
    const char32_t c = utf8_code_point(spelling);
    if (c >= byte_of.size() || byte_of[c] < 0) return false;
    bytes += static_cast<char>(byte_of[c]);
    spelling.remove_prefix(utf8_length(spelling[0]));
  }
  return true;
}

bool begins_words(std::string_view sign, const ModelConfig& config) {
  if (!config.vocabulary.contains(std::string(sign))) return false;
  std::vector<std::string_view> spelling(config.vocabulary.size());
  for (const auto& [text, id] : config.vocabulary) {
    if (static_cast<std::size_t>(id) >= spelling.size()) spelling.resize(static_cast<std::size_t>(id) + 1);
    spelling[static_cast<std::size_t>(id)] = text;
  }
  return std::all_of(config.merges.begin(), config.merges.end(), [&](const Merge& merge) {
    std::string_view text = spelling[static_cast<std::size_t>(merge.result)];
    while (text.starts_with(sign)) text.remove_prefix(sign.size());
    return text.find(sign) == std::string_view::npos;
  });
}

Model::MergeTable::MergeTable(const std::vector<Merge>& merges) {
  const std::size_t size = std::bit_ceil(merges.size() * 2 + 2);
  entries_.resize(size);
  shift_ = 64 - std::countr_zero(size);
  for (std::size_t rank = 0; rank < merges.size(); ++rank) {
    const std::uint64_t pair = pair_of(merges[rank].left, merges[rank].right);
    entries_[slot(pair)] = {pair, static_cast<std::uint32_t>(rank), merges[rank].result};
  }
}

/// Where the pair is, or would be.
std::size_t Model::MergeTable::slot(std::uint64_t pair) const {
  std::size_t i = pair * 0x9E3779B97F4A7C15u >> shift_;  // 2^64 over the golden ratio
  while (entries_[i].pair != pair && entries_[i].pair != UINT64_MAX) i = (i + 1) & (entries_.size() - 1);
  return i;
}

const Model::MergeTable::Entry* Model::MergeTable::find(std::int32_t left, std::int32_t right) const {
  const Entry& entry = entries_[slot(pair_of(left, right))];
  return entry.pair == UINT64_MAX ? nullptr : &entry;
}

Model::Model(ModelConfig config)
    : merges_(config.merges),
      unknown_(config.unknown),
      fuse_unknown_(config.fuse_unknown),
      byte_fallback_(config.byte_fallback),
      ignore_merges_(config.ignore_merges),
      byte_level_(config.byte_level) {
  for (std::size_t b = 0; b < 256; ++b) {
    const auto token = config.vocabulary.find(fmt::format("<0x{:02X}>", b));
    fallback_[b] = token == config.vocabulary.end() ? -1 : token->second;
  }
  std::string bytes;
  for (auto& [spelling, id] : config.vocabulary) {
    if (!byte_level_) {
      words_.emplace(spelling, id);
    } else if (spelled_bytes(spelling, bytes)) {
      words_.emplace(bytes, id);
    }
  }
  for (unsigned b = 0; b < 256; ++b) {
    const char byte = static_cast<char>(b);
    bytes_[b] = find(std::string_view(&byte, 1));
  }
}

std::int32_t Model::find(std::string_view word) const {
  const auto it = words_.find(word);
  return it == words_.end() ? -1 : it->second;
}

void Model::add_unknown(std::string_view spelling, Scratch& scratch) const {
  const auto fallback = [&](char c) { return fallback_[static_cast<unsigned char>(c)]; };
  if (byte_fallback_ && std::all_of(spelling.begin(), spelling.end(), [&](char c) { return fallback(c) >= 0; })) {
    for (const char c : spelling) scratch.symbols.push_back({fallback(c), 0, 0});
  } else if (unknown_ >= 0) {
    const bool fuse = fuse_unknown_ && !scratch.symbols.empty() && scratch.symbols.back().id == unknown_;
    if (!fuse) scratch.symbols.push_back({unknown_, 0, 0});
  }
}

void Model::split(std::string_view word, Scratch& scratch) const {
  scratch.symbols.clear();
  while (!word.empty()) {
    const auto byte = static_cast<unsigned char>(word[0]);
    const std::size_t length = byte_level_ ? 1 : utf8_length(word[0]);
    const std::int32_t id = length == 1 ? bytes_[byte] : find(word.substr(0, length));
    if (id >= 0) {
      scratch.symbols.push_back({id, 0, 0});
    } else {
      add_unknown(byte_level_ ? std::string_view(byte_spellings()[byte]) : word.substr(0, length), scratch);
    }
    word.remove_prefix(length);
  }
  for (std::size_t i = 0; i < scratch.symbols.size(); ++i) {
    scratch.symbols[i].previous = static_cast<std::int32_t>(i) - 1;
    scratch.symbols[i].next = i + 1 < scratch.symbols.size() ? static_cast<std::int32_t>(i) + 1 : -1;
  }
}

namespace {

/// For a heap whose top is what comes first in the list of merges, then in the word.
constexpr auto kLater = [](const Model::Scratch::Candidate& a, const Model::Scratch::Candidate& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.position > b.position;
};

}  // namespace

/// Queues the merge of the symbol at `position` with its right neighbour.
void Model::consider(std::int32_t position, Scratch& scratch) const {
  if (position < 0) return;
  const Scratch::Symbol& symbol = scratch.symbols[static_cast<std::size_t>(position)];
  if (symbol.next < 0) return;
  const std::int32_t right = scratch.symbols[static_cast<std::size_t>(symbol.next)].id;
  const MergeTable::Entry* entry = merges_.find(symbol.id, right);
  if (entry == nullptr) return;
  scratch.heap.push_back({entry->rank, position, symbol.id, right, entry->result});
  std::push_heap(scratch.heap.begin(), scratch.heap.end(), kLater);
}

void Model::merge(Scratch& scratch) const {
  auto& symbols = scratch.symbols;
  auto& heap = scratch.heap;
  heap.clear();
  for (std::size_t i = 0; i < symbols.size(); ++i) consider(static_cast<std::int32_t>(i), scratch);
  while (!heap.empty()) {
    const Scratch::Candidate top = heap.front();
    std::pop_heap(heap.begin(), heap.end(), kLater);
    heap.pop_back();
    Scratch::Symbol& left = symbols[static_cast<std::size_t>(top.position)];
    if (left.id != top.left || left.next < 0) continue;  // one of the two was merged otherwise in the meantime
    Scratch::Symbol& right = symbols[static_cast<std::size_t>(left.next)];
    if (right.id != top.right) continue;
    left.id = top.result;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[static_cast<std::size_t>(left.next)].previous = top.position;
    consider(left.previous, scratch);
    consider(top.position, scratch);
  }
}

void Model::encode(std::string_view word, std::vector<std::int32_t>& ids, Scratch& scratch) const {
  if (ignore_merges_) {
    const std::int32_t id = find(word);
    if (id >= 0) return ids.push_back(id);
  }
  split(word, scratch);
  merge(scratch);
  for (const Scratch::Symbol& symbol : scratch.symbols) {
    if (symbol.id >= 0) ids.push_back(symbol.id);
  }
}

}  // namespace nibble::bpe
