#include <omp.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "nibble/ops/backend.h"
#include "nibble/ops/cpu/lanes.h"
#include "nibble/ops/cpu/row_convert.h"
#include "nibble/ops/cpu/tile_matmul.h"
#include "nibble/ops/cpu/vector_math.h"
#include "nibble/tensor/parallel.h"
#include "nibble/tensor/simd.h"

namespace nibble::cpu {
namespace {

// Queries and keys are taken 64 at a time: all tiles of a pair of blocks (backward, head_dim 128: 370 KiB) stay in a
// core's L2 cache, and a product of 64 terms is long enough to hide loading and storing its sums.
//
// Scores are kept transposed, keys as rows and queries as columns: a softmax over the keys then runs down the
// columns, with a query in each vector lane and no sum across lanes.
constexpr std::int64_t kBlock = 64;
constexpr std::int64_t kScoreStride = tile_stride(kBlock);

constexpr std::int64_t round_up(std::int64_t n, std::int64_t multiple) {
  return (n + multiple - 1) / multiple * multiple;
}

// A block of at most kBlock positions of a sequence.
struct Block {
  std::int64_t begin;
  std::int64_t count;
  std::int64_t padded;  // count rounded up for the tile products
};

Block block_at(std::int64_t index, std::int64_t seq) {
  const std::int64_t begin = index * kBlock;
  const std::int64_t count = std::min(kBlock, seq - begin);
  return {begin, count, round_up(count, kTileColumns)};
}

// Float scratch for each thread, cut from an arena (which is not thread-safe) before the threads start.
class ThreadScratch {
 public:
  ThreadScratch(Arena& arena, std::int64_t floats)
      : inline_(omp_in_parallel() != 0),
        memory_(arena.allocate(DType::F32, {inline_ ? 1 : omp_get_max_threads(), round_up(floats, kTileColumns)})) {}

  float* of_this_thread() const {
    return memory_.data<float>() + (inline_ ? 0 : omp_get_thread_num()) * memory_.cols();
  }

 private:
  bool inline_;
  Tensor memory_;
};

// Cuts a thread's scratch into tiles; every tile starts on a cache line.
class Cutter {
 public:
  explicit Cutter(float* at) : at_(at) {}
  Tile tile(std::int64_t rows, std::int64_t stride) {
    const Tile tile{at_, stride};
    at_ += rows * stride;
    return tile;
  }
  float* vector() { return tile(1, tile_stride(kBlock)).data; }

 private:
  float* at_;
};

// Rows of a head as floats: to[r, c] = scale * from[r, c], zero in the padding.
template <class T>
void load_rows(const T* from, std::int64_t from_stride, float scale, Tile to, std::int64_t rows,
               std::int64_t padded_rows, std::int64_t columns, std::int64_t padded_columns) {
  for (std::int64_t r = 0; r < rows; ++r) {
    load_row(from + r * from_stride, scale, to.data + r * to.stride, columns);
    std::fill(to.data + r * to.stride + columns, to.data + r * to.stride + padded_columns, 0.0f);
  }
  for (std::int64_t r = rows; r < padded_rows; ++r) {
    std::fill(to.data + r * to.stride, to.data + r * to.stride + padded_columns, 0.0f);
  }
}

NIBBLE_SIMD void transpose(const float* __restrict from, std::int64_t from_stride, float* __restrict to,
                           std::int64_t to_stride, std::int64_t rows, std::int64_t columns) {
  for (std::int64_t c = 0; c < columns; ++c) {
    for (std::int64_t r = 0; r < rows; ++r) to[c * to_stride + r] = from[r * from_stride + c];
  }
}

NIBBLE_SIMD float dot(const float* a, const float* b, std::int64_t n) {
  return lane_sum<float>(
      n, [=](std::int64_t i) __attribute__((always_inline)) { return a[i] * b[i]; });
}

// In a diagonal tile, row j (a key) needs no columns (queries) before this one; the masked ones among the rest are
// set by hand.
[[gnu::always_inline]] inline std::int64_t first_column(std::int64_t j, bool diagonal) {
  return diagonal ? j / kTileRows * kTileRows : 0;
}

// Running softmax: the scores of one tile become exp(score - max), max and sum (of each query) are brought up to
// date, and rescale = exp(old max - new max) is what earlier sums have to be multiplied with.
NIBBLE_SIMD void softmax_block(float* __restrict scores, std::int64_t keys, std::int64_t queries, bool diagonal,
                               float* __restrict max, float* __restrict sum, float* __restrict rescale) {
  for (std::int64_t i = 0; i < queries; ++i) rescale[i] = max[i];
  for (std::int64_t j = 0; j < keys; ++j) {
    float* __restrict row = scores + j * kScoreStride;
    const std::int64_t first = first_column(j, diagonal);
    if (diagonal) {
      for (std::int64_t i = first; i < j; ++i) row[i] = -std::numeric_limits<float>::infinity();
    }
    for (std::int64_t i = first; i < queries; ++i) max[i] = max[i] < row[i] ? row[i] : max[i];
  }
  for (std::int64_t i = 0; i < queries; ++i) {
    rescale[i] = exp_approx(rescale[i] - max[i]);
    sum[i] *= rescale[i];
  }
  for (std::int64_t j = 0; j < keys; ++j) {
    float* __restrict row = scores + j * kScoreStride;
    for (std::int64_t i = first_column(j, diagonal); i < queries; ++i) {
      const float p = exp_approx(row[i] - max[i]);
      row[i] = p;
      sum[i] += p;
    }
  }
}

// Scores become probabilities P = exp(score - lse); dP becomes dS = P (dP - delta).
NIBBLE_SIMD void softmax_backward_block(float* __restrict scores, float* __restrict dp, std::int64_t keys,
                                        std::int64_t queries, bool diagonal, const float* __restrict lse,
                                        const float* __restrict delta) {
  for (std::int64_t j = 0; j < keys; ++j) {
    float* __restrict p = scores + j * kScoreStride;
    float* __restrict ds = dp + j * kScoreStride;
    const std::int64_t first = first_column(j, diagonal);
    for (std::int64_t i = first; i < queries; ++i) {
      p[i] = exp_approx(p[i] - lse[i]);
      ds[i] = p[i] * (ds[i] - delta[i]);
    }
    if (diagonal) {
      for (std::int64_t i = first; i < j; ++i) p[i] = ds[i] = 0.0f;
    }
  }
}

NIBBLE_SIMD void scale_rows(float* rows, std::int64_t stride, const float* scale, std::int64_t count,
                            std::int64_t columns) {
  for (std::int64_t r = 0; r < count; ++r) {
    if (scale[r] == 1.0f) continue;
    for (std::int64_t c = 0; c < columns; ++c) rows[r * stride + c] *= scale[r];
  }
}

void zero_rows(Tile tile, std::int64_t rows) { std::fill(tile.data, tile.data + rows * tile.stride, 0.0f); }

Tile from_row(Tile tile, std::int64_t row) { return {tile.data + row * tile.stride, tile.stride}; }

// Sizes that forward and backward share, and where a head of the packed rows starts.
struct Layout {
  explicit Layout(const AttentionShape& s)
      : shape(s),
        blocks((s.seq + kBlock - 1) / kBlock),
        columns(round_up(s.head_dim, kTileColumns)),
        stride(tile_stride(s.head_dim)),
        qkv_stride((s.heads + 2 * s.kv_heads) * s.head_dim),
        out_stride(s.heads * s.head_dim),
        scale(static_cast<float>(1.0 / std::sqrt(static_cast<double>(s.head_dim)))) {}

  std::int64_t q(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return (b * shape.seq + t) * qkv_stride + h * shape.head_dim;
  }
  std::int64_t k(std::int64_t b, std::int64_t t, std::int64_t kv_head) const { return q(b, t, shape.heads + kv_head); }
  std::int64_t v(std::int64_t b, std::int64_t t, std::int64_t kv_head) const {
    return q(b, t, shape.heads + shape.kv_heads + kv_head);
  }
  std::int64_t out(std::int64_t b, std::int64_t t, std::int64_t h) const {
    return (b * shape.seq + t) * out_stride + h * shape.head_dim;
  }

  AttentionShape shape;
  std::int64_t blocks;   // of queries, and of keys
  std::int64_t columns;  // head_dim, padded
  std::int64_t stride;   // of a tile with head_dim columns
  std::int64_t qkv_stride;
  std::int64_t out_stride;
  float scale;
};

struct ForwardTiles {
  ForwardTiles(float* memory, const Layout& layout) {
    Cutter cut(memory);
    q_transposed = cut.tile(layout.shape.head_dim, kScoreStride);
    scores = cut.tile(kBlock, kScoreStride);
    out = cut.tile(kBlock, layout.stride);
    k = cut.tile(layout.blocks * kBlock, layout.stride);
    v = cut.tile(layout.blocks * kBlock, layout.stride);
    max = cut.vector();
    sum = cut.vector();
    rescale = cut.vector();
  }
  static std::int64_t floats(const Layout& layout) {
    return (layout.shape.head_dim + kBlock) * kScoreStride + (1 + 2 * layout.blocks) * kBlock * layout.stride +
           3 * tile_stride(kBlock);
  }

  Tile q_transposed, scores;  // columns are queries
  Tile out, k, v;             // columns are dimensions; k and v hold the sequence
  float *max, *sum, *rescale;
};

// One block of queries of one head against all keys that it may see.
template <class T>
void forward_block(const Layout& layout, const T* qkv, T* out, float* lse, std::int64_t b, std::int64_t h,
                   std::int64_t query_block, const ForwardTiles& tiles) {
  const AttentionShape& s = layout.shape;
  const Block queries = block_at(query_block, s.seq);

  load_rows(qkv + layout.q(b, queries.begin, h), layout.qkv_stride, layout.scale, tiles.out, queries.count,
            queries.padded, s.head_dim, layout.columns);
  transpose(tiles.out.data, tiles.out.stride, tiles.q_transposed.data, kScoreStride, queries.padded, s.head_dim);
  zero_rows(tiles.out, queries.padded);
  std::fill_n(tiles.max, kBlock, -std::numeric_limits<float>::infinity());
  std::fill_n(tiles.sum, kBlock, 0.0f);

  for (std::int64_t key_block = 0; key_block <= query_block; ++key_block) {
    const bool diagonal = key_block == query_block;
    const Block keys = block_at(key_block, s.seq);
    tile_matmul(from_row(tiles.k, keys.begin), tiles.q_transposed, tiles.scores, keys.padded, queries.padded,
                s.head_dim, diagonal);
    softmax_block(tiles.scores.data, keys.padded, queries.padded, diagonal, tiles.max, tiles.sum, tiles.rescale);
    scale_rows(tiles.out.data, tiles.out.stride, tiles.rescale, queries.padded, layout.columns);
    tile_matmul_add_transposed(tiles.scores, from_row(tiles.v, keys.begin), tiles.out, queries.padded, layout.columns,
                               keys.padded, diagonal);
  }

  for (std::int64_t i = 0; i < queries.count; ++i) {
    store_row(tiles.out.data + i * tiles.out.stride, 1.0f / tiles.sum[i], out + layout.out(b, queries.begin + i, h),
              s.head_dim);
    lse[(b * s.heads + h) * s.seq + queries.begin + i] = tiles.max[i] + std::log(tiles.sum[i]);
  }
}

// Keys and values [0, rows) of a head.
template <class T>
void load_keys(const Layout& layout, const T* qkv, std::int64_t b, std::int64_t kv_head, std::int64_t rows, Tile k,
               Tile v) {
  const std::int64_t padded = round_up(rows, kTileColumns);
  load_rows(qkv + layout.k(b, 0, kv_head), layout.qkv_stride, 1.0f, k, rows, padded, layout.shape.head_dim,
            layout.columns);
  load_rows(qkv + layout.v(b, 0, kv_head), layout.qkv_stride, 1.0f, v, rows, padded, layout.shape.head_dim,
            layout.columns);
}

// A task is a few blocks of queries of one head: enough to pay for fetching the keys and values, few enough that one
// long sequence keeps many threads busy.
template <class T>
void forward(const Layout& layout, const T* qkv, T* out, float* lse, Arena& arena) {
  constexpr std::int64_t kBlocksPerTask = 4;
  const AttentionShape& s = layout.shape;
  const std::int64_t tasks_per_head = (layout.blocks + kBlocksPerTask - 1) / kBlocksPerTask;
  const ThreadScratch scratch(arena, ForwardTiles::floats(layout));
  parallel_for(s.batch * s.heads * tasks_per_head, 1, [&](std::int64_t task, std::int64_t) {
    const ForwardTiles tiles(scratch.of_this_thread(), layout);
    const std::int64_t b = task / tasks_per_head / s.heads;
    const std::int64_t h = task / tasks_per_head % s.heads;
    const std::int64_t first = (tasks_per_head - 1 - task % tasks_per_head) * kBlocksPerTask;  // the longest first
    const std::int64_t last = std::min(first + kBlocksPerTask, layout.blocks);
    load_keys(layout, qkv, b, h / (s.heads / s.kv_heads), std::min(last * kBlock, s.seq), tiles.k, tiles.v);
    for (std::int64_t query_block = first; query_block < last; ++query_block) {
      forward_block(layout, qkv, out, lse, b, h, query_block, tiles);
    }
  });
}

struct BackwardTiles {
  BackwardTiles(float* memory, const Layout& layout) {
    const std::int64_t keys = layout.blocks * kBlock;
    Cutter cut(memory);
    q_transposed = cut.tile(layout.shape.head_dim, kScoreStride);
    dout_transposed = cut.tile(layout.shape.head_dim, kScoreStride);
    p = cut.tile(kBlock, kScoreStride);
    ds = cut.tile(kBlock, kScoreStride);
    q = cut.tile(kBlock, layout.stride);
    dq = cut.tile(kBlock, layout.stride);
    dout = cut.tile(kBlock, layout.stride);
    k = cut.tile(keys, layout.stride);
    v = cut.tile(keys, layout.stride);
    dk = cut.tile(keys, layout.stride);
    dv = cut.tile(keys, layout.stride);
    lse = cut.vector();
    delta = cut.vector();
  }
  static std::int64_t floats(const Layout& layout) {
    return 2 * (layout.shape.head_dim + kBlock) * kScoreStride + (3 + 4 * layout.blocks) * kBlock * layout.stride +
           2 * tile_stride(kBlock);
  }

  Tile q_transposed, dout_transposed, p, ds;  // columns are queries
  Tile q, dq, dout, k, v, dk, dv;             // columns are dimensions; k, v, dk, dv hold the whole sequence
  float *lse, *delta;
};

// One block of queries of one head: its dq, and its share of dk and dv.
//   delta_i = dout_i . out_i      P = exp(S - lse)      dS = P (dP - delta), dP = dout V^T
//   dV += P^T dout                dK += dS^T (scale Q)  dQ = scale dS K
template <class T>
void backward_block(const Layout& layout, const T* qkv, const T* out, const float* lse, const T* dout, T* dqkv,
                    std::int64_t b, std::int64_t h, std::int64_t query_block, const BackwardTiles& tiles) {
  const AttentionShape& s = layout.shape;
  const Block queries = block_at(query_block, s.seq);

  // dq serves as a buffer for out until its sum starts.
  load_rows(out + layout.out(b, queries.begin, h), layout.out_stride, 1.0f, tiles.dq, queries.count, queries.padded,
            s.head_dim, layout.columns);
  load_rows(dout + layout.out(b, queries.begin, h), layout.out_stride, 1.0f, tiles.dout, queries.count, queries.padded,
            s.head_dim, layout.columns);
  for (std::int64_t i = 0; i < queries.padded; ++i) {
    tiles.delta[i] = dot(tiles.dout.data + i * layout.stride, tiles.dq.data + i * layout.stride, s.head_dim);
    tiles.lse[i] = i < queries.count ? lse[(b * s.heads + h) * s.seq + queries.begin + i] : 0.0f;
  }
  zero_rows(tiles.dq, queries.padded);
  load_rows(qkv + layout.q(b, queries.begin, h), layout.qkv_stride, layout.scale, tiles.q, queries.count,
            queries.padded, s.head_dim, layout.columns);
  transpose(tiles.q.data, layout.stride, tiles.q_transposed.data, kScoreStride, queries.padded, s.head_dim);
  transpose(tiles.dout.data, layout.stride, tiles.dout_transposed.data, kScoreStride, queries.padded, s.head_dim);

  for (std::int64_t key_block = 0; key_block <= query_block; ++key_block) {
    const bool diagonal = key_block == query_block;
    const Block keys = block_at(key_block, s.seq);
    const Tile k = from_row(tiles.k, keys.begin);
    tile_matmul(k, tiles.q_transposed, tiles.p, keys.padded, queries.padded, s.head_dim, diagonal);
    tile_matmul(from_row(tiles.v, keys.begin), tiles.dout_transposed, tiles.ds, keys.padded, queries.padded, s.head_dim,
                diagonal);
    softmax_backward_block(tiles.p.data, tiles.ds.data, keys.padded, queries.padded, diagonal, tiles.lse, tiles.delta);
    tile_matmul_add(tiles.p, tiles.dout, from_row(tiles.dv, keys.begin), keys.padded, layout.columns, queries.padded,
                    diagonal);
    tile_matmul_add(tiles.ds, tiles.q, from_row(tiles.dk, keys.begin), keys.padded, layout.columns, queries.padded,
                    diagonal);
    tile_matmul_add_transposed(tiles.ds, k, tiles.dq, queries.padded, layout.columns, keys.padded, diagonal);
  }

  for (std::int64_t i = 0; i < queries.count; ++i) {
    store_row(tiles.dq.data + i * layout.stride, layout.scale, dqkv + layout.q(b, queries.begin + i, h), s.head_dim);
  }
}

// A task is one key/value head of one sequence, with every query head that reads it: dk and dv are summed by one
// thread in one order.
template <class T>
void backward(const Layout& layout, const T* qkv, const T* out, const float* lse, const T* dout, T* dqkv,
              Arena& arena) {
  const AttentionShape& s = layout.shape;
  const std::int64_t group = s.heads / s.kv_heads;
  const ThreadScratch scratch(arena, BackwardTiles::floats(layout));
  parallel_for(s.batch * s.kv_heads, 1, [&](std::int64_t task, std::int64_t) {
    const BackwardTiles tiles(scratch.of_this_thread(), layout);
    const std::int64_t b = task / s.kv_heads;
    const std::int64_t kv_head = task % s.kv_heads;
    const std::int64_t padded_keys = round_up(s.seq, kTileColumns);
    load_keys(layout, qkv, b, kv_head, s.seq, tiles.k, tiles.v);
    zero_rows(tiles.dk, padded_keys);
    zero_rows(tiles.dv, padded_keys);
    for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
      for (std::int64_t query_block = 0; query_block < layout.blocks; ++query_block) {
        backward_block(layout, qkv, out, lse, dout, dqkv, b, h, query_block, tiles);
      }
    }
    for (std::int64_t t = 0; t < s.seq; ++t) {
      store_row(tiles.dk.data + t * layout.stride, 1.0f, dqkv + layout.k(b, t, kv_head), s.head_dim);
      store_row(tiles.dv.data + t * layout.stride, 1.0f, dqkv + layout.v(b, t, kv_head), s.head_dim);
    }
  });
}

}  // namespace

void attention_forward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                       Arena& scratch) {
  if (shape.batch * shape.seq == 0) return;
  const ArenaScope scope(scratch);
  const Layout layout(shape);
  dispatch_float(qkv.dtype(),
                 [&]<class T>(T*) { forward<T>(layout, qkv.data<T>(), out.data<T>(), lse.data<float>(), scratch); });
}

void attention_backward(const AttentionShape& shape, const Tensor& qkv, const Tensor& out, const Tensor& lse,
                        const Tensor& dout, const Tensor& dqkv, Arena& scratch) {
  if (shape.batch * shape.seq == 0) return;
  const ArenaScope scope(scratch);
  const Layout layout(shape);
  dispatch_float(qkv.dtype(), [&]<class T>(T*) {
    backward<T>(layout, qkv.data<T>(), out.data<T>(), lse.data<float>(), dout.data<T>(), dqkv.data<T>(), scratch);
  });
}

std::string attention_backend(const AttentionShape&) { return "own kernels"; }

}  // namespace nibble::cpu
