#include <cmath>

#include "nibble/ops/cuda/attention_plain.h"
#include "nibble/ops/cuda/attention_tiles.cuh"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {
namespace {

// Sizes, and where a head of a packed row starts.
struct Layout {
  explicit Layout(const AttentionShape& s)
      : batch(s.batch),
        seq(s.seq),
        heads(static_cast<int>(s.heads)),
        kv_heads(static_cast<int>(s.kv_heads)),
        dims(static_cast<int>(s.head_dim)),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))) {}

  __host__ __device__ std::int64_t blocks(int rows) const { return (seq + rows - 1) / rows; }
  __device__ std::int64_t qkv_stride() const { return static_cast<std::int64_t>(heads + 2 * kv_heads) * dims; }
  __device__ std::int64_t out_stride() const { return static_cast<std::int64_t>(heads) * dims; }
  __device__ std::int64_t q(std::int64_t b, std::int64_t t, int head) const {
    return (b * seq + t) * qkv_stride() + static_cast<std::int64_t>(head) * dims;
  }
  __device__ std::int64_t k(std::int64_t b, std::int64_t t, int kv_head) const { return q(b, t, heads + kv_head); }
  __device__ std::int64_t v(std::int64_t b, std::int64_t t, int kv_head) const {
    return q(b, t, heads + kv_heads + kv_head);
  }
  __device__ std::int64_t out(std::int64_t b, std::int64_t t, int head) const {
    return (b * seq + t) * out_stride() + static_cast<std::int64_t>(head) * dims;
  }
  __device__ std::int64_t lse(std::int64_t b, std::int64_t t, int head) const { return (b * heads + head) * seq + t; }

  std::int64_t batch, seq;
  int heads, kv_heads, dims;
  float scale;
};

// Which block of rows of which head a CTA computes.
struct Job {
  // CTAs with the same block follow each other; `block` counts in the order in which the CTAs are given out.
  __device__ Job(const Layout& layout, int heads) {
    const std::int64_t all_heads = layout.batch * heads;
    block = blockIdx.x / all_heads;
    b = blockIdx.x % all_heads / heads;
    head = static_cast<int>(blockIdx.x % heads);
  }
  std::int64_t block, b;
  int head;
};

// Forward: one CTA for a block of queries of one head. Keys and values share a tile, so that two CTAs fit on a
// multiprocessor; bound by shared-memory loads and FP32 multiply-adds. The blocks with the most keys start first.
template <class Tiles, class T>
__global__ void __launch_bounds__(Tiles::kThreads)
    attention_forward_kernel(Layout layout, const T* __restrict__ qkv, T* __restrict__ out, float* __restrict__ lse) {
  extern __shared__ __align__(16) float shared[];
  float* const q = shared;
  float* const kv = q + Tiles::kRowFloats;
  float* const p = kv + Tiles::kRowFloats;

  const Tiles at;
  const Job job(layout, layout.heads);
  const int kv_head = job.head / (layout.heads / layout.kv_heads);
  const std::int64_t query_block = layout.blocks(Tiles::kRows) - 1 - job.block;
  const std::int64_t first_query = query_block * Tiles::kRows;

  at.load(qkv + layout.q(job.b, first_query, job.head), layout.qkv_stride(), layout.scale, q, layout.seq - first_query,
          layout.dims);
  float max[Tiles::kMicro];
  float sum[Tiles::kMicro];  // of this thread's columns
  typename Tiles::Rows o;
  Tiles::zero(o);
  for (int i = 0; i < Tiles::kMicro; ++i) {
    max[i] = -INFINITY;
    sum[i] = 0.0f;
  }

  for (std::int64_t key_block = 0; key_block <= query_block; ++key_block) {
    const std::int64_t first_key = key_block * Tiles::kRows;
    __syncthreads();  // the values of the block before are still read
    at.load(qkv + layout.k(job.b, first_key, kv_head), layout.qkv_stride(), 1.0f, kv, layout.seq - first_key,
            layout.dims);
    __syncthreads();
    typename Tiles::Scores s;
    at.products(q, kv, layout.dims, s);
#pragma unroll
    for (int i = 0; i < Tiles::kMicro; ++i) {
      float new_max = max[i];
#pragma unroll
      for (int j = 0; j < Tiles::kMicro; ++j) {
        if (key_block == query_block && at.column(j) > at.row(i)) s[i][j] = -INFINITY;
        new_max = fmaxf(new_max, s[i][j]);
      }
      new_max = at.row_max(new_max);
      const float rescale = expf(max[i] - new_max);
      max[i] = new_max;
      sum[i] *= rescale;
#pragma unroll
      for (int j = 0; j < Tiles::kMicro; ++j) {
        const float e = expf(s[i][j] - new_max);
        at.put(p, i, j, e);
        sum[i] += e;
      }
      Tiles::scale(o[i], rescale);
    }
    __syncthreads();  // the keys are still read
    at.load(qkv + layout.v(job.b, first_key, kv_head), layout.qkv_stride(), 1.0f, kv, layout.seq - first_key,
            layout.dims);
    __syncthreads();
    at.add_products(p, kv, o);
  }

#pragma unroll
  for (int i = 0; i < Tiles::kMicro; ++i) {
    const float total = at.row_sum(sum[i]);
    const std::int64_t t = first_query + at.row(i);
    if (t >= layout.seq) continue;
    at.store(o[i], 1.0f / total, out + layout.out(job.b, t, job.head), layout.dims);
    if (at.column(0) == 0) lse[layout.lse(job.b, t, job.head)] = max[i] + logf(total);
  }
}

// delta = dout . out of every query and head: one warp a row of head_dim values, bound by memory.
template <class T>
__global__ void attention_delta_kernel(Layout layout, const T* __restrict__ out, const T* __restrict__ dout,
                                       float* __restrict__ delta) {
  const int lane = static_cast<int>(threadIdx.x % 32);
  const std::int64_t rows = layout.batch * layout.seq * layout.heads;
  const std::int64_t warps = static_cast<std::int64_t>(gridDim.x) * (blockDim.x / 32);
  for (std::int64_t row = blockIdx.x * static_cast<std::int64_t>(blockDim.x / 32) + threadIdx.x / 32; row < rows;
       row += warps) {
    const std::int64_t start = row * layout.dims;
    float sum = 0.0f;
    for (int c = lane; c < layout.dims; c += 32) {
      sum = fmaf(to_float(dout[start + c]), to_float(out[start + c]), sum);
    }
    for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(~0u, sum, offset);
    const std::int64_t token = row / layout.heads;
    const int head = static_cast<int>(row % layout.heads);
    if (lane == 0) delta[layout.lse(token / layout.seq, token % layout.seq, head)] = sum;
  }
}

// dQ = scale dS K with dS = P (dP - delta), P = exp(S - lse), dP = dO V^T: one CTA for a block of queries of one head,
// over the blocks of keys that it sees. Bound like the forward kernel.
template <class Tiles, class T>
__global__ void __launch_bounds__(Tiles::kThreads)
    attention_dq_kernel(Layout layout, const T* __restrict__ qkv, const float* __restrict__ lse,
                        const float* __restrict__ delta, const T* __restrict__ dout, T* __restrict__ dqkv) {
  extern __shared__ __align__(16) float shared[];
  float* const q = shared;
  float* const d_out = q + Tiles::kRowFloats;
  float* const k = d_out + Tiles::kRowFloats;
  float* const v = k + Tiles::kRowFloats;
  float* const ds = v + Tiles::kRowFloats;

  const Tiles at;
  const Job job(layout, layout.heads);
  const int kv_head = job.head / (layout.heads / layout.kv_heads);
  const std::int64_t query_block = layout.blocks(Tiles::kRows) - 1 - job.block;
  const std::int64_t first_query = query_block * Tiles::kRows;
  const std::int64_t queries = layout.seq - first_query;

  at.load(qkv + layout.q(job.b, first_query, job.head), layout.qkv_stride(), layout.scale, q, queries, layout.dims);
  at.load(dout + layout.out(job.b, first_query, job.head), layout.out_stride(), 1.0f, d_out, queries, layout.dims);
  float row_lse[Tiles::kMicro];
  float row_delta[Tiles::kMicro];
  for (int i = 0; i < Tiles::kMicro; ++i) {
    const bool inside = at.row(i) < queries;
    const std::int64_t from = layout.lse(job.b, first_query + at.row(i), job.head);
    row_lse[i] = inside ? lse[from] : 0.0f;
    row_delta[i] = inside ? delta[from] : 0.0f;
  }
  typename Tiles::Rows dq;
  Tiles::zero(dq);

  for (std::int64_t key_block = 0; key_block <= query_block; ++key_block) {
    const std::int64_t first_key = key_block * Tiles::kRows;
    const std::int64_t keys = layout.seq - first_key;
    __syncthreads();  // the keys of the block before are still read
    at.load(qkv + layout.k(job.b, first_key, kv_head), layout.qkv_stride(), 1.0f, k, keys, layout.dims);
    at.load(qkv + layout.v(job.b, first_key, kv_head), layout.qkv_stride(), 1.0f, v, keys, layout.dims);
    __syncthreads();
    typename Tiles::Scores s, dp;
    at.products(q, k, layout.dims, s);
    at.products(d_out, v, layout.dims, dp);
#pragma unroll
    for (int i = 0; i < Tiles::kMicro; ++i) {
#pragma unroll
      for (int j = 0; j < Tiles::kMicro; ++j) {
        const bool seen = key_block < query_block || at.column(j) <= at.row(i);
        at.put(ds, i, j, seen ? expf(s[i][j] - row_lse[i]) * (dp[i][j] - row_delta[i]) : 0.0f);
      }
    }
    __syncwarp();  // a row of ds is written and read by threads of one warp
    at.add_products(ds, k, dq);
  }

#pragma unroll
  for (int i = 0; i < Tiles::kMicro; ++i) {
    if (at.row(i) >= queries) continue;
    at.store(dq[i], layout.scale, dqkv + layout.q(job.b, first_query + at.row(i), job.head), layout.dims);
  }
}

// dV = P^T dO and dK = dS^T (scale Q): one CTA for a block of keys of one key/value head, over the query heads that
// read it and the blocks of queries that see it. Rows of the tiles are keys, columns are queries.
template <class Tiles, class T>
__global__ void __launch_bounds__(Tiles::kThreads)
    attention_dkdv_kernel(Layout layout, const T* __restrict__ qkv, const float* __restrict__ lse,
                          const float* __restrict__ delta, const T* __restrict__ dout, T* __restrict__ dqkv) {
  extern __shared__ __align__(16) float shared[];
  float* const k = shared;
  float* const v = k + Tiles::kRowFloats;
  float* const q = v + Tiles::kRowFloats;
  float* const d_out = q + Tiles::kRowFloats;
  float* const tile = d_out + Tiles::kRowFloats;

  const Tiles at;
  const Job job(layout, layout.kv_heads);
  const int group = layout.heads / layout.kv_heads;
  const std::int64_t key_block = job.block;  // the first keys are seen by the most queries: they start first
  const std::int64_t first_key = key_block * Tiles::kRows;
  const std::int64_t keys = layout.seq - first_key;

  at.load(qkv + layout.k(job.b, first_key, job.head), layout.qkv_stride(), 1.0f, k, keys, layout.dims);
  at.load(qkv + layout.v(job.b, first_key, job.head), layout.qkv_stride(), 1.0f, v, keys, layout.dims);
  typename Tiles::Rows dk, dv;
  Tiles::zero(dk);
  Tiles::zero(dv);

  for (int head = job.head * group; head < (job.head + 1) * group; ++head) {
    for (std::int64_t query_block = key_block; query_block < layout.blocks(Tiles::kRows); ++query_block) {
      const std::int64_t first_query = query_block * Tiles::kRows;
      const std::int64_t queries = layout.seq - first_query;
      __syncthreads();  // the queries of the block before are still read
      at.load(qkv + layout.q(job.b, first_query, head), layout.qkv_stride(), layout.scale, q, queries, layout.dims);
      at.load(dout + layout.out(job.b, first_query, head), layout.out_stride(), 1.0f, d_out, queries, layout.dims);
      __syncthreads();
      typename Tiles::Scores s, dp;
      at.products(k, q, layout.dims, s);
      at.products(v, d_out, layout.dims, dp);
#pragma unroll
      for (int j = 0; j < Tiles::kMicro; ++j) {
        const bool inside = at.column(j) < queries;
        const std::int64_t from = layout.lse(job.b, first_query + at.column(j), head);
        const float column_lse = inside ? lse[from] : 0.0f;
        const float column_delta = inside ? delta[from] : 0.0f;
#pragma unroll
        for (int i = 0; i < Tiles::kMicro; ++i) {
          const bool seen = inside && (key_block < query_block || at.row(i) <= at.column(j));
          s[i][j] = seen ? expf(s[i][j] - column_lse) : 0.0f;
          dp[i][j] = seen ? s[i][j] * (dp[i][j] - column_delta) : 0.0f;
        }
      }
      // A row of the tile is written and read by threads of one warp.
      at.put(tile, s);
      __syncwarp();
      at.add_products(tile, d_out, dv);
      __syncwarp();
      at.put(tile, dp);
      __syncwarp();
      at.add_products(tile, q, dk);
    }
  }

#pragma unroll
  for (int i = 0; i < Tiles::kMicro; ++i) {
    if (at.row(i) >= keys) continue;
    at.store(dk[i], 1.0f, dqkv + layout.k(job.b, first_key + at.row(i), job.head), layout.dims);
    at.store(dv[i], 1.0f, dqkv + layout.v(job.b, first_key + at.row(i), job.head), layout.dims);
  }
}

template <class Tiles, class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), const char* name, const Layout& layout, int heads, int row_tiles,
            Arguments... arguments) {
  const std::int64_t ctas = layout.blocks(Tiles::kRows) * layout.batch * heads;
  require(ctas <= INT32_MAX, "{}: {} blocks are more than a grid holds", name, ctas);
  const int bytes = static_cast<int>((row_tiles * Tiles::kRowFloats + Tiles::kScoreFloats) * sizeof(float));
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes), name);
  kernel<<<static_cast<unsigned>(ctas), Tiles::kThreads, static_cast<std::size_t>(bytes), stream()>>>(layout,
                                                                                                      arguments...);
  launched(name);
}

template <class Tiles, class T>
void forward(const Layout& layout, const T* qkv, T* out, float* lse) {
  launch<Tiles>(attention_forward_kernel<Tiles, T>, "attention_forward", layout, layout.heads, 2, qkv, out, lse);
}

template <class Tiles, class T>
void backward(const Layout& layout, const T* qkv, const float* lse, const float* delta, const T* dout, T* dqkv) {
  launch<Tiles>(attention_dq_kernel<Tiles, T>, "attention_dq", layout, layout.heads, 4, qkv, lse, delta, dout, dqkv);
  launch<Tiles>(attention_dkdv_kernel<Tiles, T>, "attention_dkdv", layout, layout.kv_heads, 4, qkv, lse, delta, dout,
                dqkv);
}

}  // namespace

// Tile sizes: as large as leaves the tiles of a CTA below 99 KiB, which every GPU since compute capability 8.6 grants,
// and its sums in registers.
void plain_attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse) {
  const Layout layout(shape);
  dispatch_float(qkv.dtype(), [&]<class T>(T*) {
    const T* x = qkv.data<T>();
    T* y = out.data<T>();
    float* l = lse.data<float>();
    if (layout.dims <= 64) return forward<AttentionTiles<4, 16, 64>>(layout, x, y, l);
    if (layout.dims <= 128) return forward<AttentionTiles<4, 16, 128>>(layout, x, y, l);
    return forward<AttentionTiles<4, 8, 256>>(layout, x, y, l);
  });
}

void plain_attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                              const Tensor& dout, const Tensor& dqkv, Arena& scratch) {
  const ArenaScope scope(scratch);
  const Layout layout(shape);
  float* delta = scratch.allocate(DType::F32, {shape.batch * shape.heads, shape.seq}).data<float>();
  dispatch_float(qkv.dtype(), [&]<class T>(T*) {
    constexpr int kThreads = 256;
    const std::int64_t rows = shape.batch * shape.seq * shape.heads;
    attention_delta_kernel<T>
        <<<grid_for(rows * 32, kThreads), kThreads, 0, stream()>>>(layout, out.data<T>(), dout.data<T>(), delta);
    launched("attention_delta");
    const T* x = qkv.data<T>();
    const T* dy = dout.data<T>();
    const float* l = lse.data<float>();
    T* dx = dqkv.data<T>();
    if (layout.dims <= 64) return backward<AttentionTiles<4, 16, 64>>(layout, x, l, delta, dy, dx);
    if (layout.dims <= 128) return backward<AttentionTiles<4, 8, 128>>(layout, x, l, delta, dy, dx);
    return backward<AttentionTiles<2, 8, 256>>(layout, x, l, delta, dy, dx);
  });
}

}  // namespace nibble::cuda
