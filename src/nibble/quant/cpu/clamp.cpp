#include "nibble/quant/cpu/clamp.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <vector>

#include "nibble/quant/cpu/encode.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::quant_cpu {

namespace {

struct Counts {
  std::int64_t low = 0;
  std::int64_t high = 0;
};

/// How many keys are below each of two limits. Lanes count in 16 bits, which a segment must not overflow.
NIBBLE_SIMD Counts count_below_segment(const std::int16_t* keys, std::int64_t n, std::int16_t low, std::int16_t high) {
  std::uint16_t a = 0;
  std::uint16_t b = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    a = static_cast<std::uint16_t>(a + (keys[i] < low ? 1 : 0));
    b = static_cast<std::uint16_t>(b + (keys[i] < high ? 1 : 0));
  }
  return {a, b};
}
NIBBLE_SIMD Counts count_below_segment(const std::int32_t* keys, std::int64_t n, std::int32_t low, std::int32_t high) {
  std::int32_t a = 0;
  std::int32_t b = 0;
  for (std::int64_t i = 0; i < n; ++i) {
    a += keys[i] < low ? 1 : 0;
    b += keys[i] < high ? 1 : 0;
  }
  return {a, b};
}

template <class Key>
Counts count_below(const Key* keys, std::int64_t n, Key low, Key high) {
  constexpr std::int64_t kSegment = 1 << 15;
  Counts total;
  for (std::int64_t i = 0; i < n; i += kSegment) {
    const Counts part = count_below_segment(keys + i, std::min(kSegment, n - i), low, high);
    total.low += part.low;
    total.high += part.high;
  }
  return total;
}

/// Search for sorted[index], the largest key t with at most `index` keys below it: from a guess by growing steps
/// until it is bracketed, then by halving.
template <class Key>
class OrderSearch {
 public:
  explicit OrderSearch(std::int64_t index) : index_(index) {}
  OrderSearch(std::int64_t index, Key guess) : index_(index), probe_(guess), bracketed_(false) {}

  bool done() const { return above_ - at_ == 1; }
  Key result() const { return static_cast<Key>(at_); }
  /// The limit to count below next.
  Key probe() {
    if (bracketed_) probe_ = at_ + (above_ - at_) / 2;
    return static_cast<Key>(probe_);
  }
  void answer(std::int64_t below) {
    const bool up = below <= index_;
    (up ? at_ : above_) = probe_;
    if (bracketed_) return;
    bracketed_ = step_ != 0 && up != (step_ > 0);
    step_ = step_ == 0 ? (up ? kFirstStep : -kFirstStep) : 4 * step_;
    probe_ += step_;
    bracketed_ = bracketed_ || probe_ <= at_ || probe_ >= above_;
  }

 private:
  // Rows of one tensor have quantiles that differ by about one per cent: a few units in the last place of BF16.
  static constexpr std::int64_t kFirstStep = sizeof(Key) == 2 ? 3 : 3 << 16;
  std::int64_t index_;
  std::int64_t at_ = std::numeric_limits<Key>::min();
  std::int64_t above_ = std::int64_t{std::numeric_limits<Key>::max()} + 1;
  std::int64_t probe_ = 0;
  std::int64_t step_ = 0;
  bool bracketed_ = true;
};

NIBBLE_SIMD void clamp_floats(const float* __restrict y, std::int32_t low, std::int32_t high, std::int64_t n,
                              float* __restrict out) {
  for (std::int64_t i = 0; i < n; ++i) out[i] = key_float(std::min(std::max(float_key(y[i]), low), high));
}
NIBBLE_SIMD void flag_floats(const float* __restrict y, std::int32_t low, std::int32_t high, std::int64_t n,
                             std::uint8_t* __restrict outside) {
  for (std::int64_t i = 0; i < n; ++i) {
    const std::int32_t key = float_key(y[i]);
    outside[i] = static_cast<std::uint8_t>((key < low ? 1 : 0) | (key > high ? 1 : 0));
  }
}
using Histogram = std::vector<std::int64_t>;
constexpr std::size_t kBins = 1 << 16;

/// Calls f(key, histogram) for every entry, chunk by chunk with a histogram each, and adds up. Counts are
/// integers: the order of adding changes nothing.
template <class F>
Histogram histogram_of(const Source& source, std::size_t bins, F&& f) {
  constexpr std::int64_t kChunks = 8;  // bounds the memory: half a MiB a histogram
  const std::int64_t grain = (source.rows() + kChunks - 1) / kChunks;
  Histogram total(bins, 0);
  parallel_for(source.rows(), grain, [&](std::int64_t begin, std::int64_t end) {
    Histogram local(bins, 0);
    RowReader read(source);
    std::vector<float> buffer(static_cast<std::size_t>(source.cols()));
    for (std::int64_t r = begin; r < end; ++r) {
      const float* y = read(r, buffer.data());
      for (std::int64_t c = 0; c < source.cols(); ++c) f(float_key(y[c]), local.data());
    }
#pragma omp critical(nibble_tensor_bounds)
    for (std::size_t i = 0; i < bins; ++i) total[i] += local[i];
  });
  return total;
}

/// The bin that holds the value at position `index`, which becomes the position within that bin.
std::int32_t find_bin(const std::int64_t* histogram, std::int64_t& index) {
  std::int32_t bin = 0;
  while (histogram[bin] <= index) index -= histogram[bin++];
  return bin;
}

/// Keys as unsigned numbers of the same order.
std::uint32_t unsigned_key(std::int32_t key) { return static_cast<std::uint32_t>(key) ^ 0x8000'0000u; }

}  // namespace

QuantileIndex quantile_index(double alpha, std::int64_t n) {
  require(alpha >= 0.5 && alpha <= 1.0, "clamp quantile {} is not in [0.5, 1]", alpha);
  const double count = static_cast<double>(n);
  const auto low = static_cast<std::int64_t>((1 - alpha) * count);
  const auto high = std::min(static_cast<std::int64_t>(alpha * count), n - 1);
  return {std::min(low, high), high};
}

template <class Key>
KeyBounds<Key> QuantileSearch<Key>::operator()(const Key* keys) {
  auto low = warm_ ? OrderSearch<Key>(index_.low, last_.low) : OrderSearch<Key>(index_.low);
  auto high = warm_ ? OrderSearch<Key>(index_.high, last_.high) : OrderSearch<Key>(index_.high);
  while (!low.done() || !high.done()) {
    const Counts below = count_below(keys, n_, low.probe(), high.probe());
    if (!low.done()) low.answer(below.low);
    if (!high.done()) high.answer(below.high);
  }
  last_ = {low.result(), high.result()};
  warm_ = true;
  return last_;
}

template class QuantileSearch<std::int16_t>;
template class QuantileSearch<std::int32_t>;

KeyBounds<std::int32_t> tensor_bounds(const Source& source, double alpha) {
  // Radix selection: the upper halves of all keys, then the lower halves of those in the bins that were hit.
  QuantileIndex index = quantile_index(alpha, source.rows() * source.cols());
  const Histogram upper =
      histogram_of(source, kBins, [](std::int32_t key, std::int64_t* h) { ++h[unsigned_key(key) >> 16]; });
  const auto low_bin = static_cast<std::uint32_t>(find_bin(upper.data(), index.low));
  const auto high_bin = static_cast<std::uint32_t>(find_bin(upper.data(), index.high));
  const Histogram lower = histogram_of(source, 2 * kBins, [=](std::int32_t key, std::int64_t* h) {
    const std::uint32_t u = unsigned_key(key);
    if (u >> 16 == low_bin) ++h[u & 0xFFFFu];
    if (u >> 16 == high_bin) ++h[kBins + (u & 0xFFFFu)];
  });
  const auto low = low_bin << 16 | static_cast<std::uint32_t>(find_bin(lower.data(), index.low));
  const auto high = high_bin << 16 | static_cast<std::uint32_t>(find_bin(lower.data() + kBins, index.high));
  return {static_cast<std::int32_t>(low ^ 0x8000'0000u), static_cast<std::int32_t>(high ^ 0x8000'0000u)};
}

NIBBLE_SIMD void to_keys(const float* __restrict y, std::int64_t n, std::int32_t* __restrict keys) {
  for (std::int64_t i = 0; i < n; ++i) keys[i] = float_key(y[i]);
}
NIBBLE_SIMD void to_keys(const std::uint16_t* __restrict x, std::int64_t n, std::int16_t* __restrict keys) {
  for (std::int64_t i = 0; i < n; ++i) keys[i] = ordered_key(static_cast<std::int16_t>(x[i]));
}

void clamp_row(const float* y, KeyBounds<std::int32_t> bounds, std::int64_t n, float* out) {
  clamp_floats(y, bounds.low, bounds.high, n, out);
}

void mark_outside(const float* y, KeyBounds<std::int32_t> bounds, std::int64_t n, std::uint64_t* outside) {
  for (std::int64_t i = 0; i < n; i += 64) {
    std::uint8_t flags[64] = {};
    flag_floats(y + i, bounds.low, bounds.high, std::min<std::int64_t>(64, n - i), flags);
    std::uint64_t word;
    std::uint8_t bits[8];  // little-endian: byte k of the word
    pack_bits(flags, 64, bits);
    std::memcpy(&word, bits, sizeof(word));
    outside[i / 64] = word;
  }
}

}  // namespace nibble::quant_cpu
