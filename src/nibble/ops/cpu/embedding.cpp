#include <cstring>

#include "nibble/ops/backend.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

NIBBLE_SIMD void copy_row(const float* from, bf16* to, std::int64_t d) {
  for (std::int64_t i = 0; i < d; ++i) to[i] = bf16_encode(from[i]);
}
void copy_row(const float* from, float* to, std::int64_t d) {
  std::memcpy(to, from, static_cast<std::size_t>(d) * sizeof(float));
}

NIBBLE_SIMD void add_row(const float* from, float* to, std::int64_t d) {
  for (std::int64_t i = 0; i < d; ++i) to[i] += from[i];
}
NIBBLE_SIMD void add_row(const bf16* from, float* to, std::int64_t d) {
  for (std::int64_t i = 0; i < d; ++i) to[i] += bf16_decode(from[i]);
}

}  // namespace

void embedding_forward(const Tensor& tokens, const Tensor& table, const Tensor& x) {
  const std::int64_t count = tokens.numel();
  const std::int64_t vocab = table.rows();
  const std::int64_t d = table.cols();
  const std::int32_t* token = tokens.data<std::int32_t>();
  const float* rows = table.data<float>();
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    T* out = x.data<T>();
    const auto bytes = static_cast<std::int64_t>(sizeof(float) + sizeof(T)) * d;
    parallel_for(count, rows_per_chunk(bytes), [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t t = begin; t < end; ++t) {
        require(token[t] >= 0 && token[t] < vocab, "token {} at position {} of a vocabulary of {}", token[t], t, vocab);
        copy_row(rows + token[t] * d, out + t * d, d);
      }
    });
  });
}

// A counting sort brings the positions of each token together, in ascending order; then every row of the table has
// one writer:
//
//   tokens      7 2 7 0            end after the sort  [1 1 2 2 2 2 2 4]   (of tokens 0..7)
//   positions   3 | 1 | 0 2        groups              [1 2 4]             (ends of the non-empty ranges)
void embedding_backward(const Tensor& tokens, const Tensor& dx, const Tensor& dtable, Arena& scratch) {
  const std::int64_t count = tokens.numel();
  const std::int64_t vocab = dtable.rows();
  const std::int64_t d = dtable.cols();
  if (count == 0 || d == 0) return;
  const ArenaScope scope(scratch);
  const std::int32_t* token = tokens.data<std::int32_t>();
  std::int32_t* end = scratch.allocate(DType::I32, {vocab}).data<std::int32_t>();
  std::int32_t* position = scratch.allocate(DType::I32, {count}).data<std::int32_t>();
  std::int32_t* group = scratch.allocate(DType::I32, {count}).data<std::int32_t>();

  std::fill(end, end + vocab, 0);
  for (std::int64_t t = 0; t < count; ++t) {
    require(token[t] >= 0 && token[t] < vocab, "token {} at position {} of a vocabulary of {}", token[t], t, vocab);
    ++end[token[t]];
  }
  std::int64_t groups = 0;
  std::int32_t start = 0;
  for (std::int64_t v = 0; v < vocab; ++v) {
    const std::int32_t repeats = end[v];
    end[v] = start;
    start += repeats;
    if (repeats > 0) group[groups++] = start;
  }
  for (std::int64_t t = 0; t < count; ++t) position[end[token[t]]++] = static_cast<std::int32_t>(t);

  float* table = dtable.data<float>();
  dispatch_float(dx.dtype(), [&]<class T>(T*) {
    const T* grad = dx.data<T>();
    // Few groups a chunk: common tokens have many positions and neighbouring ids.
    parallel_for(groups, 8, [&](std::int64_t first, std::int64_t last) {
      const std::int32_t from = first == 0 ? 0 : group[first - 1];
      for (std::int32_t i = from; i < group[last - 1]; ++i) {
        add_row(grad + position[i] * d, table + token[position[i]] * d, d);
      }
    });
  });
}

}  // namespace nibble::cpu
