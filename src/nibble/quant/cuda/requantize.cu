// A transposed operand whose source is stored as E2M1 codes under block scales: columns.cu's pass, but for the reading.
// A row of a tile is one sector of codes, so a thread block brings its tile to shared memory once, the codes by columns
// and the scales as floats, and a thread finds the codes of its two pieces there in sixteen bytes. The values are made
// in registers, by the operations of `dequantize`. Bound by instructions: half a byte an element is read.
#include "nibble/quant/cuda/columns.cuh"

namespace nibble::quant_cuda {

namespace {

/// The cases of kBlockCases that backward operands from fprop's codes are in.
constexpr bool is_requantised(int number) {
  if (number == kAnyCase) return true;
  const Case& c = kBlockCases[number];
  return !c.mask && (c.rounding == Rounding::Eden || (c.rounding == Rounding::Stochastic && c.block == 32));
}

/// Values [rows, cols] as they are stored; `words`: eight columns at a time can be read.
struct StoredView {
  DecodeView q;
  bool words = false;

  explicit StoredView(const QTensor& from)
      : q(from), words(from.cols % 8 == 0 && reinterpret_cast<std::uintptr_t>(from.codes.raw()) % 4 == 0) {}

  /// The codes of columns [c, c + 8), c a multiple of eight; zeros where r or c lies outside.
  __device__ __forceinline__ std::uint32_t eight(std::uint32_t r, std::uint32_t c) const {
    if (r >= q.rows || c >= q.cols) return 0;
    const auto* from = static_cast<const std::uint8_t*>(q.codes) + static_cast<std::int64_t>(r) * q.row_bytes + c / 2;
    if (words) return __ldg(reinterpret_cast<const std::uint32_t*>(from));
    std::uint32_t codes = 0;
    for (std::uint32_t i = 0; i < 4; ++i) {
      if (c + 2 * i < q.cols) codes |= static_cast<std::uint32_t>(from[i]) << (8 * i);
    }
    return codes;
  }
};

constexpr int kScaleCols = kTileCols / 16;

/// The tile of a thread block. Byte r of codes[p] has columns 2p (low) and 2p + 1 of row r; chunks of sixteen rows lie
/// in an order that p mixes, so that neither the stores of words nor the loads of chunks meet in a bank. Scales of
/// sixteen rows are twenty floats apart, likewise.
template <bool kOuter>
class StoredTile {
 public:
  /// The tile whose first element is (r0, c0). All threads take part; the barrier is the caller's.
  __device__ __forceinline__ void load(const StoredView& from, std::uint32_t r0, std::uint32_t c0) {
    const std::uint32_t word = threadIdx.x % 8;
    const std::uint32_t four = threadIdx.x / 8;
    std::uint32_t w[4];
#pragma unroll
    for (std::uint32_t i = 0; i < 4; ++i) w[i] = from.eight(r0 + 4 * four + i, c0 + 8 * word);
#pragma unroll
    for (std::uint32_t i = 0; i < 2; ++i) {
      const std::uint32_t row = threadIdx.x / 2;
      const std::uint32_t group = 2 * (threadIdx.x % 2) + i;
      const std::uint32_t r = r0 + row;
      const std::uint32_t c = c0 + 16 * group;
      const bool inside = r < from.q.rows && c < from.q.cols;
      scales_[group][place_of(row)] = inside ? from.q.stored_scale(from.q.scale_index(r, c)) : 0.0f;
      if constexpr (kOuter) {
        const bool outer = inside && from.q.outer_scales != nullptr;
        outer_[group][place_of(row)] = outer ? from.q.outer_scale(r, c) : 1.0f;
      }
    }
    // Four rows of four bytes, transposed.
    const std::uint32_t low[2] = {__byte_perm(w[0], w[1], 0x5140u), __byte_perm(w[2], w[3], 0x5140u)};
    const std::uint32_t high[2] = {__byte_perm(w[0], w[1], 0x7362u), __byte_perm(w[2], w[3], 0x7362u)};
    store_rows(4 * word, four, __byte_perm(low[0], low[1], 0x5410u));
    store_rows(4 * word + 1, four, __byte_perm(low[0], low[1], 0x7632u));
    store_rows(4 * word + 2, four, __byte_perm(high[0], high[1], 0x5410u));
    store_rows(4 * word + 3, four, __byte_perm(high[0], high[1], 0x7632u));
  }

  /// Sixteen rows of two columns.
  __device__ __forceinline__ uint4 codes(std::uint32_t pair, std::uint32_t sixteen) const {
    return codes_[pair][sixteen ^ mixed(pair)];
  }
  /// Four of their scales, and of the outer ones.
  __device__ __forceinline__ float4 scales(std::uint32_t pair, std::uint32_t sixteen, int i) const {
    return *reinterpret_cast<const float4*>(&scales_[pair / 8][20 * sixteen + 4 * i]);
  }
  __device__ __forceinline__ float4 outer(std::uint32_t pair, std::uint32_t sixteen, int i) const {
    return *reinterpret_cast<const float4*>(&outer_[pair / 8][20 * sixteen + 4 * i]);
  }

 private:
  static constexpr int kSixteens = kTileRows / 16;
  static __device__ __forceinline__ std::uint32_t mixed(std::uint32_t pair) { return (pair >> 2 ^ pair << 1) & 7u; }
  static __device__ __forceinline__ std::uint32_t place_of(std::uint32_t row) { return row / 16 * 20 + row % 16; }
  __device__ __forceinline__ void store_rows(std::uint32_t pair, std::uint32_t four, std::uint32_t bytes) {
    reinterpret_cast<std::uint32_t*>(&codes_[pair][four / 4 ^ mixed(pair)])[four % 4] = bytes;
  }

  uint4 codes_[kTileCols / 2][kSixteens];
  alignas(16) float scales_[kScaleCols][20 * kSixteens];
  alignas(16) float outer_[kOuter ? kScaleCols : 1][kOuter ? 20 * kSixteens : 4];
};

/// Both pieces of a thread, under the job's transform: signs that come first are put into the codes.
template <int kCase>
class StoredPieces {
 public:
  using Tile = StoredTile<kCase == kAnyCase>;

  __device__ __forceinline__ StoredPieces(const SourceView& s, const Tile& tile, const Place& at, float all)
      : s_(s), tile_(tile), pair_(at.r % kTileCols / 2), sixteen_(at.c % kTileRows / kPiece), column_(at.c), all_(all) {
    const uint4 codes = tile.codes(pair_, sixteen_);
    codes_[0] = codes.x, codes_[1] = codes.y, codes_[2] = codes.z, codes_[3] = codes.w;
    if (!rotated() || s.hadamard.signs_last) return;
    const auto group = static_cast<std::uint32_t>(s.hadamard.group);
    const std::uint32_t negative = s.hadamard.negative[(column_ & (group - 1)) >> 5] >> (column_ & 31u);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const std::uint32_t bytes = (negative >> (4 * i) & 15u) * 0x0020'4081u & 0x0101'0101u;  // a bit a byte
      codes_[i] ^= bytes * 0x88u;
    }
  }

  __device__ __forceinline__ void values(std::uint32_t k, float (&y)[kPiece]) const {
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float4 of_rows = tile_.scales(pair_, sixteen_, i);
      const float scale[4] = {of_rows.x, of_rows.y, of_rows.z, of_rows.w};
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        // decode_e2m1 of a code that was shifted to the top.
        const auto top = static_cast<std::int32_t>(codes_[i] << (28 - 8 * j - 4 * static_cast<int>(k)));
        y[4 * i + j] = bits_float(static_cast<std::uint32_t>(top >> 6) & 0x81C0'0000u) * 0x1p126f * scale[j];
      }
      if constexpr (kCase == kAnyCase) {
        const float4 outer = tile_.outer(pair_, sixteen_, i);
        y[4 * i] *= outer.x, y[4 * i + 1] *= outer.y, y[4 * i + 2] *= outer.z, y[4 * i + 3] *= outer.w;
      }
#pragma unroll
      for (int j = 0; j < 4; ++j) y[4 * i + j] *= all_;
    }
    if constexpr (kCase == kAnyCase) {
      if (rotated()) hadamard_of_signed(y, s_.hadamard, column_);
    } else if constexpr (kBlockCases[kCase].hadamard > 0) {
      hadamard_of_signed<kPiece, kBlockCases[kCase].hadamard>(y, s_.hadamard, column_);
    }
  }

 private:
  __device__ __forceinline__ bool rotated() const {
    if constexpr (kCase == kAnyCase) return s_.hadamard.group > 0;
    return kBlockCases[kCase < 0 ? 0 : kCase].hadamard > 0;
  }

  const SourceView& s_;
  const Tile& tile_;
  std::uint32_t pair_;
  std::uint32_t sixteen_;
  std::uint32_t column_;
  float all_;
  std::uint32_t codes_[4];
};

/// The corner of the thread block's tile of x.
struct Corner {
  std::uint32_t r;
  std::uint32_t c;
  __device__ __forceinline__ explicit Corner(const Place& at)
      : r(at.c / kTileRows * kTileRows), c(at.r / kTileCols * kTileCols) {}
};

constexpr int blocks_of(int number) { return number == kAnyCase ? 2 : 4; }

template <int kCase>
__global__ void __launch_bounds__(kTileThreads, blocks_of(kCase))
    requantize_kernel(const __grid_constant__ SourceView source, const __grid_constant__ StoredView from,
                      const __grid_constant__ BlocksView view, FastDivide tiles, std::uint32_t lanes) {
  __shared__ TensorScale tensor;
  __shared__ typename StoredPieces<kCase>::Tile stored;
  __shared__ uint4 tile[kStagedChunks<kCase>];
  const Place at(tiles, lanes);
  const Corner corner(at);
  const float all = from.q.factor();
  stored.load(from, corner.r, corner.c);
  share_tensor_scale(view, tensor);
  __syncthreads();
  const StoredPieces<kCase> pieces(source, stored, at, all);
  encode_tile<kCase>(view, tensor, at, tile, [&](std::uint32_t k, float(&y)[kPiece]) { pieces.values(k, y); });
}

/// The amax of all of y.
template <int kCase>
__global__ void __launch_bounds__(kTileThreads, blocks_of(kCase))
    requantize_amax_kernel(const __grid_constant__ SourceView source, const __grid_constant__ StoredView from,
                           FastDivide tiles, std::uint32_t lanes, std::int32_t* amax) {
  __shared__ typename StoredPieces<kCase>::Tile stored;
  __shared__ std::int32_t of_block;
  const Place at(tiles, lanes);
  const Corner corner(at);
  const float all = from.q.factor();
  stored.load(from, corner.r, corner.c);
  if (threadIdx.x == 0) of_block = 0;
  __syncthreads();
  const StoredPieces<kCase> pieces(source, stored, at, all);
  std::int32_t most = 0;
#pragma unroll
  for (std::uint32_t k = 0; k < 2; ++k) {
    float y[kPiece];
    pieces.values(k, y);
    most = max(most, amax_bits(y));
  }
  most = __reduce_max_sync(0xFFFF'FFFFu, most);
  if (threadIdx.x % 32 == 0) atomicMax(&of_block, most);
  __syncthreads();
  if (threadIdx.x == 0) atomicMax(amax, of_block);  // one a thread block: all queue at one address
}

template <int kCase>
void launch(const Job& job, const QTensor& from) {
  const Tiles tiles(job.source);
  const unsigned blocks = blocks_for(tiles.count, 1);
  const auto lanes = static_cast<std::uint32_t>(columns_of_unit(job) / kPiece);
  const StoredView stored(from);
  BlocksView view = blocks_view(job);
  if constexpr (kCase == kAnyCase || kBlockCases[kCase < 0 ? 0 : kCase].nvfp4) {
    if (job.q.device_scale.defined()) {
      auto* amax = job.scratch<std::int32_t>(1);
      view.tensor_amax = amax;
      view.device_scale = job.q.device_scale.data<float>();
      fill_zero_async(amax, sizeof(std::int32_t));
      requantize_amax_kernel<kCase>
          <<<blocks, kTileThreads, 0, cuda::stream()>>>(job.source, stored, tiles.across, lanes, amax);
      cuda::launched("requantize_amax_kernel");
    }
  }
  requantize_kernel<kCase><<<blocks, kTileThreads, 0, cuda::stream()>>>(job.source, stored, view, tiles.across, lanes);
  cuda::launched("requantize_kernel");
}

}  // namespace

void encode_stored(const Job& job, const QTensor& from) {
  if (from.outer_scales.defined()) return launch<kAnyCase>(job, from);
  dispatch_case<kBlockCases>(job, [&](auto number) {
    constexpr int kCase = is_requantised(number) ? static_cast<int>(number) : kAnyCase;
    launch<kCase>(job, from);
  });
}

}  // namespace nibble::quant_cuda
