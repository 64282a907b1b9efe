// The order statistics of the clamp by radix selection on ordered keys: a histogram of the upper bits of all keys finds
// the bin of each quantile, then histograms of the lower bits of the keys in those bins. Counts are integers, so no
// order matters.
#pragma once

#include "nibble/quant/cuda/source.cuh"

namespace nibble::quant_cuda {

constexpr int kSelectThreads = 256;
constexpr int kMostBins = 1 << 11;

/// Bins of a histogram lie with a gap after each 32, so that lanes that read 32 or 64 each meet different banks.
constexpr int kHistogram = kMostBins + kMostBins / 32;
__device__ __forceinline__ std::uint32_t place_of_bin(std::uint32_t bin) { return bin + bin / 32; }

/// Keys as unsigned numbers of the same order.
__device__ __forceinline__ std::uint32_t unsigned_key(float y) {
  return static_cast<std::uint32_t>(quant_cpu::float_key(y)) ^ 0x8000'0000u;
}

/// The two positions that are looked for, and what is known of the keys there: their upper bits.
struct Quantiles {
  std::uint32_t prefix[2];
  std::uint32_t index[2];  ///< among the keys with that prefix
};

/// Bits [shift, shift + bits) of the keys, those above being known.
struct Digit {
  int shift;
  int bits;
};

/// Digits from the top: of 32 bits, or of the 16 that tell BF16 values apart. The first holds sign, exponent and one
/// bit more, so that the values of a tensor spread over some dozens of bins.
__device__ __forceinline__ Digit digit_of(int pass, bool bf16_keys) {
  if (pass == 0) return {22, 10};
  if (bf16_keys) return {16, 6};
  return pass == 1 ? Digit{11, 11} : Digit{0, 11};
}
__host__ __device__ constexpr int passes_for(bool bf16_keys) { return bf16_keys ? 2 : 3; }

/// Adds a key to the histograms, one a quantile, that lie `apart`; the first digit needs one only.
__device__ __forceinline__ void count_key(std::uint32_t key, Digit digit, bool first, const Quantiles& quantiles,
                                          std::uint32_t* histograms, int apart = kHistogram) {
  const std::uint32_t place = place_of_bin(key >> digit.shift & ((1u << digit.bits) - 1u));
  if (first) {
    atomicAdd(histograms + place, 1u);
    return;
  }
  const std::uint32_t known = key >> (digit.shift + digit.bits);
#pragma unroll
  for (int k = 0; k < 2; ++k) {
    if (known == quantiles.prefix[k]) atomicAdd(histograms + k * apart + place, 1u);
  }
}

__device__ __forceinline__ std::uint32_t inclusive_scan(std::uint32_t v) {
#pragma unroll
  for (unsigned step = 1; step < 32; step *= 2) {
    const std::uint32_t before = __shfl_up_sync(0xFFFF'FFFFu, v, step);
    if (threadIdx.x % 32 >= step) v += before;
  }
  return v;
}

/// The first lane whose inclusive sum passes `rest`, which becomes what is left within that lane; -1 where none does.
__device__ __forceinline__ int find_lane(std::uint32_t count, std::uint32_t& rest, std::uint32_t& total) {
  const std::uint32_t upto = inclusive_scan(count);
  total = __shfl_sync(0xFFFF'FFFFu, upto, 31);
  const int lane = __ffs(static_cast<int>(__ballot_sync(0xFFFF'FFFFu, upto > rest))) - 1;
  const std::uint32_t below = __shfl_sync(0xFFFF'FFFFu, upto - count, lane < 0 ? 0 : lane);
  if (lane >= 0) rest -= below;
  return lane;
}

/// By one warp: the bin that holds position index[k], appended to prefix[k]; the position becomes that within the bin.
__device__ __forceinline__ void find_digit(const std::uint32_t* histogram, Digit digit, int k, Quantiles& quantiles) {
  const std::uint32_t lane = threadIdx.x % 32;
  const std::uint32_t each = (1u << digit.bits) / 32;  // 2 to 64
  std::uint32_t count = 0;
  for (std::uint32_t i = 0; i < each; ++i) count += histogram[place_of_bin(lane * each + i)];
  std::uint32_t rest = quantiles.index[k];
  std::uint32_t total = 0;
  const std::uint32_t owner = static_cast<std::uint32_t>(find_lane(count, rest, total));
  std::uint32_t bin = owner * each;
  for (std::uint32_t part = 0; part < each; part += 32) {
    count = part + lane < each ? histogram[place_of_bin(owner * each + part + lane)] : 0;
    const int found = find_lane(count, rest, total);
    if (found >= 0) {
      bin += part + static_cast<std::uint32_t>(found);
      break;
    }
    rest -= total;
  }
  __syncwarp();  // all lanes have read the position
  if (lane != 0) return;
  quantiles.prefix[k] = quantiles.prefix[k] << digit.bits | bin;
  quantiles.index[k] = rest;
}

/// The key whose upper bits are known, in full: all 32 of them, or the upper 16 of a BF16 value's.
__device__ __forceinline__ std::int32_t selected_key(std::uint32_t prefix, bool bf16_keys) {
  // A negative number's key has its bits inverted, the lower ones of BF16 too.
  const std::uint32_t key = bf16_keys ? prefix << 16 | (prefix < 0x8000u ? 0xFFFFu : 0u) : prefix;
  return static_cast<std::int32_t>(key ^ 0x8000'0000u);
}

/// What the clamp cuts off eight columns: bit i says that column c + i has an entry, `difference` holds y - y_c there.
__device__ __forceinline__ std::uint32_t cut_off(const float (&y)[8], std::uint32_t c, std::uint32_t cols,
                                                 Bounds bounds, float (&difference)[8]) {
  std::uint32_t entries = 0;
#pragma unroll
  for (std::uint32_t i = 0; i < 8; ++i) {
    const std::int32_t key = quant_cpu::float_key(y[i]);
    const std::int32_t bounded = min(max(key, bounds.low), bounds.high);
    difference[i] = y[i] - quant_cpu::key_float(bounded);
    entries |= (c + i < cols && key != bounded && difference[i] != 0.0f ? 1u : 0u) << i;
  }
  return entries;
}

}  // namespace nibble::quant_cuda
