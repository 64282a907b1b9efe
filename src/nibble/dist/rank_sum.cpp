#include "nibble/dist/rank_sum.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "nibble/tensor/simd.h"

namespace nibble {

namespace {

/// Elements that are reduced at a time: 16 KiB in F32, so that the tree of a few ranks stays in the L2 cache.
constexpr std::int64_t kStrip = 4096;

NIBBLE_SIMD void add(float* to, const float* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
}
NIBBLE_SIMD void add(std::uint32_t* to, const std::uint32_t* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] += from[i];
}
NIBBLE_SIMD void larger(float* to, const float* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = from[i] > to[i] ? from[i] : to[i];
}
NIBBLE_SIMD void larger(std::int32_t* to, const std::int32_t* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = std::max(to[i], from[i]);
}
NIBBLE_SIMD void larger(std::uint8_t* to, const std::uint8_t* from, std::int64_t n) {
  for (std::int64_t i = 0; i < n; ++i) to[i] = std::max(to[i], from[i]);
}

/// Calls combine(a, b) for the pairs of the tree over ranks: b goes into a, and the result ends in 0.
template <class Combine>
void along_tree(int ranks, Combine&& combine) {
  for (int distance = 1; distance < ranks; distance *= 2) {
    for (int a = 0; a + distance < ranks; a += 2 * distance) combine(a, a + distance);
  }
}

template <class T, class Combine>
void reduce_in_place(T* pieces, int ranks, std::int64_t n, T* to, Combine&& combine) {
  for (std::int64_t begin = 0; begin < n; begin += kStrip) {
    const std::int64_t count = std::min(kStrip, n - begin);
    along_tree(ranks, [&](int a, int b) { combine(pieces + a * n + begin, pieces + b * n + begin, count); });
    std::memmove(to + begin, pieces + begin, static_cast<std::size_t>(count) * sizeof(T));
  }
}

template <class Combine>
void reduce_wide(const bf16* pieces, int ranks, std::int64_t n, bf16* to, Combine&& combine) {
  std::vector<float> wide(static_cast<std::size_t>(ranks * kStrip));
  for (std::int64_t begin = 0; begin < n; begin += kStrip) {
    const std::int64_t count = std::min(kStrip, n - begin);
    for (int r = 0; r < ranks; ++r) {
      for (std::int64_t i = 0; i < count; ++i) {
        wide[static_cast<std::size_t>(r * kStrip + i)] = bf16_decode(pieces[r * n + begin + i]);
      }
    }
    along_tree(ranks, [&](int a, int b) { combine(wide.data() + a * kStrip, wide.data() + b * kStrip, count); });
    for (std::int64_t i = 0; i < count; ++i) to[begin + i] = bf16_encode(wide[static_cast<std::size_t>(i)]);
  }
}

}  // namespace

void reduce_pieces(const Tensor& pieces, int ranks, const Tensor& to, Reduce reduce) {
  const std::int64_t n = to.numel();
  require(pieces.dtype() == to.dtype() && pieces.numel() == n * ranks, "reducing {} of {} ranks to {}",
          to_string(pieces), ranks, to_string(to));
  const auto sum = [](auto* a, const auto* b, std::int64_t count) { add(a, b, count); };
  const auto maximum = [](auto* a, const auto* b, std::int64_t count) { larger(a, b, count); };
  const bool adds = reduce == Reduce::Sum;
  switch (to.dtype()) {
    case DType::F32: {
      auto* p = pieces.data<float>();
      adds ? reduce_in_place(p, ranks, n, to.data<float>(), sum)
           : reduce_in_place(p, ranks, n, to.data<float>(), maximum);
      return;
    }
    case DType::BF16: {
      const auto* p = pieces.data<bf16>();
      adds ? reduce_wide(p, ranks, n, to.data<bf16>(), sum) : reduce_wide(p, ranks, n, to.data<bf16>(), maximum);
      return;
    }
    case DType::I32: {
      auto* p = pieces.data<std::int32_t>();
      // Unsigned, so that a sum that is too large wraps around.
      adds ? reduce_in_place(reinterpret_cast<std::uint32_t*>(p), ranks, n,
                             reinterpret_cast<std::uint32_t*>(to.data<std::int32_t>()), sum)
           : reduce_in_place(p, ranks, n, to.data<std::int32_t>(), maximum);
      return;
    }
    case DType::U8:
      if (adds) break;
      return reduce_in_place(pieces.data<std::uint8_t>(), ranks, n, to.data<std::uint8_t>(), maximum);
    case DType::F16: break;
  }
  throw InternalError(fmt::format("no {} of {}", adds ? "sum" : "maximum", to_string(to)));
}

}  // namespace nibble
