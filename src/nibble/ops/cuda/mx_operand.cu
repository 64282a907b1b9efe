#include "nibble/ops/cuda/gemm_codes.cuh"
#include "nibble/ops/cuda/mx_operand.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/runtime.h"

// Bound by memory: 17/32 of a byte read and one written an element. A row's anchor depends on all of the row, so its
// codes wait in registers: a warp takes a row of up to 4096 elements, a thread block one of up to 32768; what is longer
// is read a second time. A thread holds pieces of 16 elements (8 bytes in, 16 out), side by side with its neighbours'.
// The 32 pieces of a warp are 16 blocks: a word of left_out.

namespace nibble::cuda {
namespace {

constexpr int kPiece = 16;  ///< half a block
constexpr int kHeld = 8;    ///< pieces that a thread holds
constexpr unsigned kThreads = 256;
constexpr unsigned kWarp = 32;
constexpr std::int64_t kWarpRow = std::int64_t{kWarp} * kHeld * kPiece;

constexpr unsigned kWidest = 14;  ///< the largest difference of exponents in a row
constexpr unsigned kAbove = 6;    ///< from the anchor to the largest exponent
constexpr unsigned kNaN = 255;
constexpr float kLeastScale = 0x1p-60f;
constexpr float kMostScale = 0x1p60f;

/// The E4M3 bytes of the magnitudes of E2M1 times 2^d, d from -8 to 6.
NIBBLE_FN FourBitTable table_of(int d) {
  FourBitTable table;
  for (unsigned code = 0; code < 8; ++code) {
    const float value = e2m1_decode(static_cast<std::uint8_t>(code)) * exp2_int(d);
    (code < 4 ? table.low : table.high) |= std::uint32_t{e4m3_encode(value)} << 8 * (code % 4);
  }
  return table;
}

/// The same by a sum: from d = -5 on all bytes are normal numbers, and d adds to the exponent of each but the zero.
__device__ FourBitTable scaled_table(int d) {
  constexpr FourBitTable kPlain = table_of(0);
  constexpr FourBitTable kSmall[3] = {table_of(-8), table_of(-7), table_of(-6)};
  const auto step = static_cast<std::uint32_t>(d);
  FourBitTable table{kPlain.low + step * 0x0808'0800u, kPlain.high + step * 0x0808'0808u};
  if (d == -6) table = {kSmall[2].low, kSmall[2].high};
  if (d == -7) table = {kSmall[1].low, kSmall[1].high};
  if (d == -8) table = {kSmall[0].low, kSmall[0].high};
  return table;
}

struct MxRows {
  Stored codes;
  const std::uint8_t* scales;
  std::int64_t scale_cols;
  float factor;  ///< times *device_factor: the tensor scale
  const float* device_factor;
};

struct Piece {
  std::uint32_t codes[2] = {0, 0};
  unsigned scale = 0;

  /// Whether the scale counts. That of zeros does not, except NaN, which makes NaN of them.
  __device__ bool counts() const { return ((codes[0] | codes[1]) & 0x7777'7777u) != 0 || scale == kNaN; }
};

/// Piece p of a row. kWhole: rows are whole, aligned pieces.
template <bool kWhole>
__device__ Piece load(const MxRows& x, std::int64_t row, unsigned p) {
  Piece piece;
  const std::int64_t at = static_cast<std::int64_t>(p) * (kPiece / 2);
  const std::uint8_t* from = x.codes.codes + row * x.codes.row_bytes + at;
  load_piece<kPiece / 2>(from, kWhole ? kPiece / 2 : x.codes.row_bytes - at, kWhole, piece.codes);
  piece.scale = x.scales[row * x.scale_cols + p / 2];
  return piece;
}

__device__ void store(const Piece& piece, bool in_range, unsigned anchor, std::uint8_t* to) {
  uint4 bytes = {0, 0, 0, 0};
  if (in_range) {
    const FourBitTable table = scaled_table(static_cast<int>(piece.scale) - static_cast<int>(anchor));
    bytes = {e4m3_of_four(piece.codes[0], table), e4m3_of_four(piece.codes[0] >> 16, table),
             e4m3_of_four(piece.codes[1], table), e4m3_of_four(piece.codes[1] >> 16, table)};
  }
  *reinterpret_cast<uint4*>(to) = bytes;
}

/// The largest `high` and the least `low` of the threads of a row.
template <unsigned kRowThreads>
__device__ void reduce(unsigned& high, unsigned& low) {
  high = __reduce_max_sync(0xFFFF'FFFFu, high);
  low = __reduce_min_sync(0xFFFF'FFFFu, low);
  if constexpr (kRowThreads > kWarp) {
    constexpr unsigned kWarps = kRowThreads / kWarp;
    __shared__ unsigned highs[kWarps];
    __shared__ unsigned lows[kWarps];
    if (threadIdx.x % kWarp == 0) {
      highs[threadIdx.x / kWarp] = high;
      lows[threadIdx.x / kWarp] = low;
    }
    __syncthreads();
#pragma unroll
    for (unsigned w = 0; w < kWarps; ++w) {
      high = max(high, highs[w]);
      low = min(low, lows[w]);
    }
  }
}

/// Bits 2i and 2i + 1 of a warp's votes, either of them, to bit i.
__device__ std::uint16_t either_of_pairs(unsigned votes) {
  unsigned bits = (votes | votes >> 1) & 0x5555'5555u;
  bits = (bits | bits >> 1) & 0x3333'3333u;
  bits = (bits | bits >> 2) & 0x0F0F'0F0Fu;
  bits = (bits | bits >> 4) & 0x00FF'00FFu;
  return static_cast<std::uint16_t>(bits | bits >> 8);
}

struct Out {
  std::uint8_t* bytes;
  std::int64_t rows;
  float* scales;
  std::uint8_t* is_listed;
  std::uint16_t* left_out;
  std::int64_t left_out_words;
  std::int32_t* listed;
  std::int32_t* n_listed;
};

/// out.bytes[out.rows, 16 * pieces], zeros beyond the operand; one row for kRowThreads threads, which are those of a
/// blockDim.y.
template <unsigned kRowThreads, bool kWhole>
__global__ __launch_bounds__(kThreads) void mx_to_e4m3(MxRows x, unsigned pieces, Out out) {
  const std::int64_t row = std::int64_t{blockIdx.x} * (kThreads / kRowThreads) + threadIdx.y;
  if (row >= out.rows) return;
  const bool inside = row < x.codes.rows;
  const unsigned used = inside ? pieces : 0;
  Piece held[kHeld];
#pragma unroll
  for (unsigned i = 0; i < kHeld; ++i) {
    const unsigned p = threadIdx.x + i * kRowThreads;
    if (p < used) held[i] = load<kWhole>(x, row, p);
  }
  unsigned high = 0;
  unsigned low = kNaN;
  const auto count = [&](const Piece& piece) {
    if (!piece.counts()) return;
    high = max(high, piece.scale);
    low = min(low, piece.scale);
  };
#pragma unroll
  for (unsigned i = 0; i < kHeld; ++i) count(held[i]);
  for (unsigned p = threadIdx.x + kHeld * kRowThreads; p < used; p += kRowThreads) count(load<kWhole>(x, row, p));
  reduce<kRowThreads>(high, low);

  // A row of zeros has high = 0 and low = 255.
  const bool zero = high < low;
  const unsigned anchor = zero ? 127 : high > kAbove ? high - kAbove : 1;
  const float factor = x.device_factor == nullptr ? x.factor : x.factor * *x.device_factor;
  const float scale = exp2_int(static_cast<int>(anchor) - 127) * factor;
  const bool in_range = high < kNaN && fabsf(scale) >= kLeastScale && fabsf(scale) <= kMostScale;
  const bool is_listed = inside && (!in_range || (!zero && high - low > kWidest));
  const auto stays = [&](const Piece& piece) { return in_range && high <= piece.scale + kWidest; };
  std::uint8_t* to = out.bytes + row * pieces * kPiece;
#pragma unroll
  for (unsigned i = 0; i < kHeld; ++i) {
    const unsigned p = threadIdx.x + i * kRowThreads;
    if (p < pieces) store(held[i], inside && stays(held[i]), anchor, to + std::int64_t{p} * kPiece);
  }
  for (unsigned p = threadIdx.x + kHeld * kRowThreads; p < pieces; p += kRowThreads) {
    const Piece piece = p < used ? load<kWhole>(x, row, p) : Piece{};
    store(piece, inside && stays(piece), anchor, to + std::int64_t{p} * kPiece);
  }
  if (!inside) return;
  if (is_listed) {
    // Whole warps: those of a row vote on 32 pieces at a time.
    for (unsigned first = threadIdx.x / kWarp * kWarp; first < pieces; first += kRowThreads) {
      const unsigned p = first + threadIdx.x % kWarp;
      const Piece piece = p < used ? load<kWhole>(x, row, p) : Piece{};
      const unsigned votes = __ballot_sync(0xFFFF'FFFFu, p < used && (!in_range || (piece.counts() && !stays(piece))));
      if (threadIdx.x % kWarp == 0) out.left_out[row * out.left_out_words + first / kWarp] = either_of_pairs(votes);
    }
  }
  if (threadIdx.x != 0) return;
  out.scales[row] = in_range ? scale : 0.0f;
  out.is_listed[row] = is_listed;
  if (is_listed) out.listed[atomicAdd(out.n_listed, 1)] = static_cast<std::int32_t>(row);
}

}  // namespace

bool is_mxfp4(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  return q.element == ElementFormat::E2M1 && q.scale_format == ScaleFormat::E8M0 && !x.transposed &&
         q.granularity == Granularity::block(1, 32) && !q.outer_scales.defined() && block_scales_are_inner(x);
}

MxOperand mx_operand(const GemmOperand& x, std::int64_t rows, std::int32_t* n_listed, Arena& scratch) {
  const QTensor& q = x.matrix;
  const std::int64_t stride = (q.cols + kPiece - 1) / kPiece * kPiece;
  const std::int64_t words = (q.scale_cols() + 15) / 16;
  const Out out{.bytes = scratch.allocate(DType::U8, {rows, stride}).data<std::uint8_t>(),
                .rows = rows,
                .scales = scratch.allocate(DType::F32, {q.rows}).data<float>(),
                .is_listed = scratch.allocate(DType::U8, {q.rows}).data<std::uint8_t>(),
                .left_out = reinterpret_cast<std::uint16_t*>(
                    scratch.allocate(DType::U8, {q.rows, words * 2}).data<std::uint8_t>()),
                .left_out_words = words,
                .listed = scratch.allocate(DType::I32, {q.rows}).data<std::int32_t>(),
                .n_listed = n_listed};
  const MxRows codes{stored(q), q.scales.data<std::uint8_t>(), q.scale_cols(), q.tensor_scale,
                     q.device_scale.defined() ? q.device_scale.data<float>() : nullptr};
  const bool whole = q.cols % kPiece == 0 && codes.codes.alignment % (kPiece / 2) == 0;
  const bool short_rows = stride <= kWarpRow;
  auto* kernel = short_rows ? whole ? mx_to_e4m3<kWarp, true> : mx_to_e4m3<kWarp, false>
                 : whole ? mx_to_e4m3<kThreads, true>
                            : mx_to_e4m3<kThreads, false>;
  const dim3 block(short_rows ? kWarp : kThreads, short_rows ? kThreads / kWarp : 1);
  const auto blocks = static_cast<unsigned>((rows + block.y - 1) / block.y);
  kernel<<<blocks, block, 0, stream()>>>(codes, static_cast<unsigned>(stride / kPiece), out);
  launched("mx_to_e4m3");
  return {
      {out.bytes, LtType::E4M3, stride, false}, out.scales, out.is_listed, out.left_out, words, out.listed, n_listed};
}

}  // namespace nibble::cuda
