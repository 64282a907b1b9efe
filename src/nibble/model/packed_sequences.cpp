#include "nibble/model/packed_sequences.h"

#include <algorithm>

#include "nibble/tensor/error.h"

namespace nibble {

PackedSequences pack_sequences(std::span<const std::vector<std::int32_t>> sequences) {
  PackedSequences packed;
  std::vector<std::size_t> own;  // the sequences that take a row in attention
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    const std::vector<std::int32_t>& sequence = sequences[s];
    require(!sequence.empty(), "sequence {} of a pack is empty", s);
    std::size_t shared = 0;
    if (s > 0) {
      const std::vector<std::int32_t>& before = sequences[s - 1];
      const auto end = std::mismatch(sequence.begin(), sequence.end(), before.begin(), before.end());
      shared = static_cast<std::size_t>(end.first - sequence.begin());
    }
    std::vector<std::int32_t> rows;
    if (shared > 0) rows.assign(packed.rows[s - 1].begin(), packed.rows[s - 1].begin() + static_cast<long>(shared));
    for (std::size_t i = shared; i < sequence.size(); ++i) {
      rows.push_back(static_cast<std::int32_t>(packed.tokens.size()));
      packed.tokens.push_back(sequence[i]);
    }
    packed.rows.push_back(std::move(rows));
    if (shared == sequence.size()) continue;
    own.push_back(s);
    packed.seq = std::max(packed.seq, static_cast<std::int64_t>(sequence.size()));
  }
  packed.sequences = static_cast<std::int64_t>(own.size());
  packed.place.resize(packed.tokens.size());
  for (const std::size_t s : own) {
    const std::size_t begin = packed.at.size();
    const std::vector<std::int32_t>& rows = packed.rows[s];
    packed.at.insert(packed.at.end(), rows.begin(), rows.end());
    packed.at.resize(begin + static_cast<std::size_t>(packed.seq), rows.back());
    for (std::size_t i = 0; i < rows.size(); ++i) {
      packed.place[static_cast<std::size_t>(rows[i])] = static_cast<std::int32_t>(begin + i);
    }
  }
  return packed;
}

}  // namespace nibble
