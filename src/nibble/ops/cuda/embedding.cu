// Token embedding. Forward is a gather, bound by memory: a warp for each token. Backward brings the positions of each
// token together with a counting sort, so that every row of the table has one writer, which adds in ascending t: no
// float atomics, and the CPU's bits.
//
//   tokens      7 2 7 0            positions   3 | 1 | 0 2
//   groups      token 0 2 7        begin       0   1   2   (4)
//
// count   the tokens' histogram (integer atomics: any order gives the same)
// scan    one block: where each token's positions begin, and the list of the tokens that occur
// place   a warp for every 32 tokens of the vocabulary reads all positions in order and keeps those of its own tokens
// add     a warp for a stretch of columns of a group
//
// A token beyond the vocabulary cannot be refused here without waiting for the GPU: it gives a row of NaN, and no
// gradient.
#include <limits>

#include "nibble/ops/backend.h"
#include "nibble/tensor/cuda/pack.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {

namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / 32;
constexpr unsigned kAll = 0xFFFF'FFFFu;

__device__ __forceinline__ std::int64_t global_warp() {
  return static_cast<std::int64_t>(blockIdx.x) * kWarps + threadIdx.x / 32;
}

template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads) gather_kernel(const std::int32_t* tokens, const float* table, T* x,
                                                          std::int64_t count, std::int64_t vocab, std::int64_t d) {
  const std::int64_t t = global_warp();
  if (t >= count) return;
  const std::int32_t token = tokens[t];
  const bool known = token >= 0 && token < vocab;
  const float* row = table + token * d;
#pragma unroll 4
  for (std::int64_t i = threadIdx.x % 32 * kWidth; i < d; i += 32 * kWidth) {
    float v[kWidth];
#pragma unroll
    for (int k = 0; k < kWidth; ++k) v[k] = std::numeric_limits<float>::quiet_NaN();
    if (known) load_floats(row + i, v);
    store_floats(x + t * d + i, v);
  }
}

__global__ void __launch_bounds__(kThreads)
    count_kernel(const std::int32_t* tokens, std::int64_t count, std::int64_t vocab, std::int32_t* counts) {
  const std::int64_t t = static_cast<std::int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (t < count && tokens[t] >= 0 && tokens[t] < vocab) atomicAdd(&counts[tokens[t]], 1);
}

constexpr int kScanThreads = 1024;
constexpr int kScanItems = 4;  // of a thread

/// begin[v] = number of positions with tokens before v (counts, overwritten). The groups are the tokens that occur:
/// group g of *groups has token group_token[g] and positions [group_begin[g], group_begin[g + 1]).
__global__ void __launch_bounds__(kScanThreads)
    scan_kernel(std::int32_t* begin, std::int64_t vocab, std::int32_t* group_token, std::int32_t* group_begin,
                std::int32_t* groups) {
  __shared__ unsigned long long warp_sums[kScanThreads / 32];
  const int lane = threadIdx.x % 32;
  const int warp = threadIdx.x / 32;
  unsigned long long before = 0;  // of earlier turns: positions in the lower half, groups in the upper
  for (std::int64_t first = 0; first < vocab; first += kScanThreads * kScanItems) {
    const std::int64_t v = first + threadIdx.x * kScanItems;
    std::int32_t counts[kScanItems];
    unsigned long long sum = 0;
#pragma unroll
    for (int k = 0; k < kScanItems; ++k) {
      counts[k] = v + k < vocab ? begin[v + k] : 0;
      sum += static_cast<unsigned>(counts[k]) | (counts[k] > 0 ? 1ull << 32 : 0ull);
    }
    unsigned long long up_to = sum;  // of this warp
#pragma unroll
    for (int offset = 1; offset < 32; offset *= 2) {
      const unsigned long long other = __shfl_up_sync(kAll, up_to, offset);
      if (lane >= offset) up_to += other;
    }
    if (lane == 31) warp_sums[warp] = up_to;
    __syncthreads();
    unsigned long long at = before + up_to - sum;
    unsigned long long turn = 0;
    for (int w = 0; w < kScanThreads / 32; ++w) {
      if (w < warp) at += warp_sums[w];
      turn += warp_sums[w];
    }
    before += turn;
#pragma unroll
    for (int k = 0; k < kScanItems; ++k) {
      if (v + k >= vocab) continue;
      const auto position = static_cast<std::int32_t>(at & 0xFFFF'FFFFu);
      begin[v + k] = position;
      if (counts[k] == 0) continue;
      group_token[at >> 32] = static_cast<std::int32_t>(v + k);
      group_begin[at >> 32] = position;
      at += static_cast<unsigned>(counts[k]) | 1ull << 32;
    }
    __syncthreads();
  }
  if (threadIdx.x == 0) {
    *groups = static_cast<std::int32_t>(before >> 32);
    group_begin[before >> 32] = static_cast<std::int32_t>(before & 0xFFFF'FFFFu);
  }
}

/// positions of each token, ascending, from begin[token] on. Lane l counts for token 32 * warp + l.
__global__ void __launch_bounds__(kThreads)
    place_kernel(const std::int32_t* tokens, std::int64_t count, std::int64_t vocab, const std::int32_t* begin,
                 std::int32_t* positions) {
  constexpr int kInFlight = 8;
  const unsigned lane = threadIdx.x % 32;
  const std::int64_t first_token = global_warp() * 32;
  if (first_token >= vocab) return;
  const auto own_tokens = static_cast<unsigned>(min(std::int64_t{32}, vocab - first_token));
  std::int32_t next = lane < own_tokens ? begin[first_token + lane] : 0;
  for (std::int64_t first = 0; first < count; first += kInFlight * 32) {
    int own[kInFlight];  // counted from the warp's first token; -1 for other warps' tokens
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      const std::int64_t t = first + u * 32 + lane;
      const unsigned token = t < count ? static_cast<unsigned>(tokens[t]) - static_cast<unsigned>(first_token) : ~0u;
      own[u] = token < own_tokens ? static_cast<int>(token) : -1;
    }
#pragma unroll
    for (int u = 0; u < kInFlight; ++u) {
      for (unsigned left = __ballot_sync(kAll, own[u] >= 0); left != 0;) {
        const int token = __shfl_sync(kAll, own[u], __ffs(static_cast<int>(left)) - 1);
        const unsigned same = __ballot_sync(kAll, own[u] == token);
        const std::int32_t at = __shfl_sync(kAll, next, token);
        if (own[u] == token) {
          positions[at + __popc(same & ((1u << lane) - 1))] = static_cast<std::int32_t>(first + u * 32 + lane);
        }
        if (static_cast<int>(lane) == token) next += __popc(same);
        left &= ~same;
      }
    }
  }
}

/// Warps stride over the pairs of a group and a stretch of 32 * kWidth columns.
template <int kWidth, class T>
__global__ void __launch_bounds__(kThreads)
    add_kernel(const T* dx, float* dtable, const std::int32_t* positions, const std::int32_t* group_token,
               const std::int32_t* group_begin, const std::int32_t* groups, std::int64_t d, std::int64_t stretches) {
  constexpr int kInFlight = 8;
  const int lane = threadIdx.x % 32;
  const std::int64_t items = *groups * stretches;
  for (std::int64_t item = global_warp(); item < items; item += static_cast<std::int64_t>(gridDim.x) * kWarps) {
    const std::int64_t group = item / stretches;
    const std::int64_t column = ((item - group * stretches) * 32 + lane) * kWidth;
    const bool inside = column < d;
    float* to = dtable + group_token[group] * d + column;
    float sum[kWidth] = {};
    if (inside) load_floats(to, sum);
    const std::int32_t end = group_begin[group + 1];
    for (std::int32_t first = group_begin[group]; first < end; first += 32) {
      const std::int32_t own = first + lane < end ? positions[first + lane] : 0;
      const int here = min(32, end - first);
      for (int j = 0; j < here; j += kInFlight) {
        float v[kInFlight][kWidth];
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          const std::int64_t t = __shfl_sync(kAll, own, (j + u) % 32);
          if (inside && j + u < here) load_floats(dx + t * d + column, v[u]);
        }
#pragma unroll
        for (int u = 0; u < kInFlight; ++u) {
          if (j + u >= here) break;
#pragma unroll
          for (int k = 0; k < kWidth; ++k) sum[k] += v[u][k];
        }
      }
    }
    if (inside) store_floats(to, sum);
  }
}

unsigned blocks_of_warps(std::int64_t warps) { return static_cast<unsigned>((warps + kWarps - 1) / kWarps); }

}  // namespace

void embedding_forward(const Tensor& tokens, const Tensor& table, const Tensor& x) {
  const std::int64_t count = tokens.numel();
  const std::int64_t d = table.cols();
  if (count == 0 || d == 0) return;
  const auto* token = device_data<std::int32_t>(tokens, "embedding_forward");
  const auto* rows = device_data<float>(table, "embedding_forward");
  dispatch_float(x.dtype(), [&]<class T>(T*) {
    auto* out = device_data<T>(x, "embedding_forward");
    if (d % 4 == 0 && packs_fit(rows, out)) {
      gather_kernel<4><<<blocks_of_warps(count), kThreads, 0, stream()>>>(token, rows, out, count, table.rows(), d);
    } else {
      gather_kernel<1><<<blocks_of_warps(count), kThreads, 0, stream()>>>(token, rows, out, count, table.rows(), d);
    }
  });
  launched("embedding_forward");
}

void embedding_backward(const Tensor& tokens, const Tensor& dx, const Tensor& dtable, Arena& scratch) {
  const std::int64_t count = tokens.numel();
  const std::int64_t vocab = dtable.rows();
  const std::int64_t d = dtable.cols();
  require(count < (std::int64_t{1} << 31), "embedding_backward: {} tokens", count);
  if (count == 0 || d == 0 || vocab == 0) return;
  const ArenaScope scope(scratch);
  const auto integers = [&](std::int64_t n) {
    return device_data<std::int32_t>(scratch.allocate(DType::I32, {n}), "embedding_backward");
  };
  const auto* token = device_data<std::int32_t>(tokens, "embedding_backward");
  const std::int64_t most_groups = std::min(count, vocab);
  std::int32_t* begin = integers(vocab);
  std::int32_t* positions = integers(count);
  std::int32_t* group_token = integers(most_groups);
  std::int32_t* group_begin = integers(most_groups + 1);
  std::int32_t* groups = integers(1);

  check(cudaMemsetAsync(begin, 0, static_cast<std::size_t>(vocab) * sizeof(std::int32_t), stream()),
        "embedding_backward: zeros");
  count_kernel<<<static_cast<unsigned>((count + kThreads - 1) / kThreads), kThreads, 0, stream()>>>(token, count, vocab,
                                                                                                    begin);
  launched("embedding_backward: count");
  scan_kernel<<<1, kScanThreads, 0, stream()>>>(begin, vocab, group_token, group_begin, groups);
  launched("embedding_backward: scan");
  place_kernel<<<blocks_of_warps((vocab + 31) / 32), kThreads, 0, stream()>>>(token, count, vocab, begin, positions);
  launched("embedding_backward: place");
  auto* table = device_data<float>(dtable, "embedding_backward");
  dispatch_float(dx.dtype(), [&]<class T>(T*) {
    const auto* grad = device_data<T>(dx, "embedding_backward");
    const bool packed = d % 4 == 0 && packs_fit(grad, table);
    const std::int64_t columns = packed ? 128 : 32;
    const std::int64_t stretches = (d + columns - 1) / columns;
    const unsigned blocks = grid_for(most_groups * stretches * 32, kThreads);
    if (packed) {
      add_kernel<4>
          <<<blocks, kThreads, 0, stream()>>>(grad, table, positions, group_token, group_begin, groups, d, stretches);
    } else {
      add_kernel<1>
          <<<blocks, kThreads, 0, stream()>>>(grad, table, positions, group_token, group_begin, groups, d, stretches);
    }
  });
  launched("embedding_backward: add");
}

}  // namespace nibble::cuda
