#include <bit>

#include "nibble/ops/cuda/gemm_codes.cuh"
#include "nibble/ops/cuda/gemm_operand.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/runtime.h"

// Both kernels are bound by memory: four-bit codes are read at half a byte an element and written at one (FP8), two or
// four bytes. They decode in registers, several elements an instruction, and store 16 bytes a thread.

namespace nibble::cuda {
namespace {

/// The scales that are multiplied in; null where that level is not.
struct InnerScales {
  const void* blocks = nullptr;
  ScaleFormat format = ScaleFormat::None;
  std::int64_t scale_cols = 0;
  unsigned block_rows = 1, block_cols = 1;
  const float* second = nullptr;
  std::int64_t second_cols = 0;
  unsigned outer = 1;

  /// No scale varies within aligned pieces of n columns.
  bool constant_within(unsigned n) const {
    return (blocks == nullptr || block_cols % n == 0) && (second == nullptr || outer % n == 0);
  }

  __device__ float block(std::int64_t i) const {
    switch (format) {
      case ScaleFormat::None: break;
      case ScaleFormat::F32: return static_cast<const float*>(blocks)[i];
      case ScaleFormat::E8M0: return e8m0_decode(static_cast<const std::uint8_t*>(blocks)[i]);
      case ScaleFormat::UE4M3: return e4m3_decode(static_cast<const std::uint8_t*>(blocks)[i]);
    }
    return 1.0f;
  }
  __device__ float at(std::int64_t r, unsigned c) const {
    const auto row = static_cast<unsigned>(r);
    float scale = 1.0f;
    if (blocks != nullptr) {
      scale = block((block_rows == 1 ? row : row / block_rows) * scale_cols + c / block_cols);
    }
    if (second != nullptr) scale = scale * second[r * second_cols + c / outer];
    return scale;
  }
};

enum class Source { FourBit, E4M3, E5M2, BF16, F32 };

constexpr int bits_of(Source source) {
  switch (source) {
    case Source::FourBit: return 4;
    case Source::E4M3:
    case Source::E5M2: return 8;
    case Source::BF16: return 16;
    case Source::F32: return 32;
  }
  return 0;
}

/// The eight-bit form of four elements, from the i-th group of four in a piece.
template <Source kSource>
__device__ std::uint32_t four_bytes(const std::uint32_t* words, int i, const FourBitTable& table) {
  if constexpr (kSource == Source::FourBit) {
    return e4m3_of_four(words[i / 2] >> 16 * (i % 2), table);
  } else {
    return words[i];
  }
}

template <Source kSource>
__device__ void four_floats(const std::uint32_t* words, int i, const FourBitTable& table, float* out) {
  if constexpr (kSource == Source::F32) {
#pragma unroll
    for (int j = 0; j < 4; ++j) out[j] = __uint_as_float(words[4 * i + j]);
  } else if constexpr (kSource == Source::BF16) {
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      out[2 * j] = __uint_as_float(words[2 * i + j] << 16);
      out[2 * j + 1] = __uint_as_float(words[2 * i + j] & 0xFFFF'0000u);
    }
  } else if constexpr (kSource == Source::E5M2) {
    floats_of_e5m2(words[i], out);
  } else {
    floats_of_e4m3(four_bytes<kSource>(words, i, table), out);
  }
}

/// Sixteen bytes of Target from a piece, elements multiplied by scale(i).
template <class Target, Source kSource, class Scale>
__device__ uint4 convert(const std::uint32_t* words, const FourBitTable& table, const Scale& scale) {
  std::uint32_t out[4];
  if constexpr (sizeof(Target) == 1) {
#pragma unroll
    for (int i = 0; i < 4; ++i) out[i] = four_bytes<kSource>(words, i, table);
  } else {
    constexpr int kCount = 16 / sizeof(Target);
    float values[kCount];
#pragma unroll
    for (int i = 0; i < kCount / 4; ++i) four_floats<kSource>(words, i, table, values + 4 * i);
#pragma unroll
    for (int i = 0; i < kCount; ++i) values[i] = values[i] * scale(i);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      if constexpr (sizeof(Target) == 2) {
        out[i] = bf16_pair(values[2 * i], values[2 * i + 1]);
      } else {
        out[i] = __float_as_uint(values[i]);
      }
    }
  }
  return {out[0], out[1], out[2], out[3]};
}

/// out[out_rows, out_cols] from [x.rows, cols], zeros beyond; out_cols is whole stores. A thread takes one store's
/// width of four consecutive rows, whose loads are all on their way before the first is used; threads of a warp lie
/// side by side along the row. Where scales vary within a store (kEach), every element looks up its own, a row at a
/// time.
template <class Target, Source kSource, bool kEach>
__global__ __launch_bounds__(256, 3) void decode_rows(Stored x, unsigned cols, FourBitTable table, InnerScales scales,
                                                      Target* out, std::int64_t out_rows, unsigned out_cols) {
  constexpr int kCount = 16 / sizeof(Target);
  constexpr int kPiece = kCount * bits_of(kSource) / 8;
  constexpr int kRows = kEach ? 1 : 4;
  const unsigned c = (blockIdx.x * blockDim.x + threadIdx.x) * kCount;
  if (c >= out_cols) return;
  const std::int64_t at = static_cast<std::int64_t>(c) * bits_of(kSource) / 8;
  const bool aligned = x.alignment % kPiece == 0;
  const std::int64_t step = std::int64_t{gridDim.y} * blockDim.y * kRows;
  for (std::int64_t r = (std::int64_t{blockIdx.y} * blockDim.y + threadIdx.y) * kRows; r < out_rows; r += step) {
    std::uint32_t words[kRows][(kPiece + 3) / 4];
    float scale[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool inside = r + i < x.rows && c < cols;  // beyond the operand there are no scales either
      load_piece<kPiece>(x.codes + (r + i) * x.row_bytes + at, inside ? x.row_bytes - at : 0, aligned, words[i]);
      scale[i] = !kEach && inside ? scales.at(r + i, c) : 1.0f;
    }
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      if (r + i >= out_rows) break;
      uint4 stored;
      if constexpr (kEach) {
        stored = convert<Target, kSource>(words[i], table, [&](int j) {
          const unsigned column = c + static_cast<unsigned>(j);
          return column < cols ? scales.at(r + i, column) : 1.0f;
        });
      } else {
        stored = convert<Target, kSource>(words[i], table, [&](int) { return scale[i]; });
      }
      *reinterpret_cast<uint4*>(out + (r + i) * out_cols + c) = stored;
    }
  }
}

/// In front: bytes [4][4] by rows; behind: by columns.
__device__ void transpose_bytes(std::uint32_t (&x)[4]) {
  const std::uint32_t a = __byte_perm(x[0], x[1], 0x5140u);
  const std::uint32_t b = __byte_perm(x[2], x[3], 0x5140u);
  const std::uint32_t c = __byte_perm(x[0], x[1], 0x7362u);
  const std::uint32_t d = __byte_perm(x[2], x[3], 0x7362u);
  x[0] = __byte_perm(a, b, 0x5410u);
  x[1] = __byte_perm(a, b, 0x7632u);
  x[2] = __byte_perm(c, d, 0x5410u);
  x[3] = __byte_perm(c, d, 0x7632u);
}

constexpr int kTile = 128;  ///< stored rows and columns of a tile: rows of the result are whole cache lines

/// Where word q of column o of a tile lies in shared memory. The shift by the column's group of eight, in pairs of
/// words, spreads the writes of a warp (16 groups, two words) over all banks and keeps 8-byte reads whole.
__device__ int place(int o, int q) { return o * (kTile / 4) + (q ^ ((o >> 3 & 15) * 2)); }

/// out[out_rows, stride] = the codes of [x.rows, cols] as bytes, transposed; zeros beyond. A block of 256 threads takes
/// a tile of 128 x 128. A thread reads 4 bytes of four consecutive rows at a time, turns the squares of 4 x 4 elements
/// in registers and puts them down by columns; then 8 threads store a row of 128 bytes.
template <Source kSource>
__global__ __launch_bounds__(256) void transpose_to_bytes(Stored x, FourBitTable table, std::uint8_t* out,
                                                          std::int64_t out_rows, std::int64_t stride) {
  constexpr int kWidth = 32 / bits_of(kSource);  // elements of a load: 8 or 4
  constexpr int kGroups = kTile / kWidth;        // loads along a row of the tile
  constexpr int kQuads = 256 / kGroups;          // fours of rows that all threads read at a time
  constexpr int kRounds = kTile / 4 / kQuads;    // 2 or 4
  __shared__ __align__(16) std::uint32_t tile[kTile * kTile / 4];
  const std::int64_t o0 = std::int64_t{blockIdx.x} * kTile;
  const std::int64_t k0 = std::int64_t{blockIdx.y} * kTile;
  const int thread = static_cast<int>(threadIdx.x);
  const int group = thread % kGroups;
  const std::int64_t at = (o0 + group * kWidth) * bits_of(kSource) / 8;
  const bool aligned = x.alignment % 4 == 0;

  std::uint32_t words[kRounds][4];
#pragma unroll
  for (int u = 0; u < kRounds; ++u) {
    const std::int64_t k = k0 + 4 * (thread / kGroups + kQuads * u);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      load_piece<4>(x.codes + (k + i) * x.row_bytes + at, k + i < x.rows ? x.row_bytes - at : 0, aligned, &words[u][i]);
    }
  }
#pragma unroll
  for (int u = 0; u < kRounds; ++u) {
    const int quad = thread / kGroups + kQuads * u;
#pragma unroll
    for (int h = 0; h < kWidth / 4; ++h) {
      std::uint32_t square[4];
#pragma unroll
      for (int i = 0; i < 4; ++i) square[i] = four_bytes<kSource>(&words[u][i], h, table);
      transpose_bytes(square);
#pragma unroll
      for (int j = 0; j < 4; ++j) tile[place(group * kWidth + 4 * h + j, quad)] = square[j];
    }
  }
  __syncthreads();
#pragma unroll
  for (int u = 0; u < 4; ++u) {
    const int o = (thread + 256 * u) / 8;
    const int q = thread % 8 * 4;
    if (o0 + o >= out_rows || k0 + 4 * q >= stride) continue;
    const uint2 low = *reinterpret_cast<const uint2*>(&tile[place(o, q)]);
    const uint2 high = *reinterpret_cast<const uint2*>(&tile[place(o, q + 2)]);
    *reinterpret_cast<uint4*>(out + (o0 + o) * stride + k0 + 4 * q) = {low.x, low.y, high.x, high.y};
  }
}

InnerScales inner_scales(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  InnerScales scales;
  if (block_scales_are_inner(x)) {
    scales.blocks = q.scales.raw();
    scales.format = q.scale_format;
    scales.scale_cols = q.scale_cols();
    scales.block_rows = static_cast<unsigned>(q.block_rows());
    scales.block_cols = static_cast<unsigned>(q.block_cols());
  }
  if (second_level_is_inner(x)) {
    scales.second = q.outer_scales.data<float>();
    scales.second_cols = q.outer_scales.cols();
    scales.outer = static_cast<unsigned>(q.outer);
  }
  return scales;
}

template <class Target, Source kSource>
void launch_rows(const GemmOperand& x, void* out, std::int64_t out_rows, std::int64_t out_cols) {
  constexpr unsigned kCount = 16 / sizeof(Target);
  constexpr bool kScaled = sizeof(Target) > 1 && kSource != Source::BF16 && kSource != Source::F32;
  const QTensor& q = x.matrix;
  const InnerScales scales = kScaled ? inner_scales(x) : InnerScales{};
  const bool each = !scales.constant_within(kCount);
  const auto stores = static_cast<unsigned>(out_cols / kCount);
  const unsigned wide = std::clamp(std::bit_ceil(stores), 8u, 256u);
  const dim3 block(wide, 256 / wide);
  const std::int64_t rows_per_block = (each ? 1 : 4) * block.y;
  const std::int64_t blocks = (out_rows + rows_per_block - 1) / rows_per_block;
  const dim3 grid((stores + wide - 1) / wide, static_cast<unsigned>(std::min<std::int64_t>(blocks, 65535)));
  auto* kernel = decode_rows<Target, kSource, false>;
  if constexpr (kScaled) {
    if (each) kernel = decode_rows<Target, kSource, true>;
  }
  kernel<<<grid, block, 0, stream()>>>(stored(q), static_cast<unsigned>(q.cols), four_bit_table(q.element), scales,
                                       static_cast<Target*>(out), out_rows, static_cast<unsigned>(out_cols));
  launched("decode_rows");
}

template <Source kSource>
void launch_transpose(const QTensor& q, void* out, std::int64_t out_rows, std::int64_t stride) {
  const std::int64_t tiles_k = (stride + kTile - 1) / kTile;
  require(tiles_k <= 65535, "gemm: a contraction over {}", q.rows);
  const dim3 grid(static_cast<unsigned>((out_rows + kTile - 1) / kTile), static_cast<unsigned>(tiles_k));
  transpose_to_bytes<kSource><<<grid, 256, 0, stream()>>>(stored(q), four_bit_table(q.element),
                                                          static_cast<std::uint8_t*>(out), out_rows, stride);
  launched("transpose_to_bytes");
}

template <class Target>
void launch_wide(const GemmOperand& x, void* out, std::int64_t stride) {
  const std::int64_t rows = x.matrix.rows;
  switch (x.matrix.element) {
    case ElementFormat::E2M1:
    case ElementFormat::Int4:
    case ElementFormat::E3M0: return launch_rows<Target, Source::FourBit>(x, out, rows, stride);
    case ElementFormat::E4M3: return launch_rows<Target, Source::E4M3>(x, out, rows, stride);
    case ElementFormat::E5M2: return launch_rows<Target, Source::E5M2>(x, out, rows, stride);
    case ElementFormat::BF16: return launch_rows<Target, Source::BF16>(x, out, rows, stride);
    case ElementFormat::F32: return launch_rows<Target, Source::F32>(x, out, rows, stride);
  }
}

}  // namespace

bool exact_in_fp8(const GemmOperand& x) { return has_scale(x.matrix.element) && !has_inner_scales(x); }

bool exact_in_bf16(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  if (q.element == ElementFormat::F32 || second_level_is_inner(x)) return false;
  if (!block_scales_are_inner(x)) return true;
  return q.scale_format == ScaleFormat::E8M0 || (q.scale_format == ScaleFormat::UE4M3 && is_four_bit(q.element));
}

LtMatrix fp8_operand(const GemmOperand& x, std::int64_t rows, Arena& scratch) {
  const QTensor& q = x.matrix;
  const bool packed = is_four_bit(q.element);
  const std::int64_t stride = round_up(inner_extent(x), 16);
  LtMatrix out{q.codes.raw(), q.element == ElementFormat::E5M2 ? LtType::E5M2 : LtType::E4M3, stride, false};
  const bool in_place = !packed && !x.transposed && q.cols == stride && q.rows == rows && address(out.data) % 16 == 0;
  if (in_place) return out;
  void* bytes = scratch.allocate(DType::U8, {rows, stride}).raw();
  out.data = bytes;
  if (x.transposed) {
    packed ? launch_transpose<Source::FourBit>(q, bytes, rows, stride)
           : launch_transpose<Source::E4M3>(q, bytes, rows, stride);
  } else {
    packed ? launch_rows<std::uint8_t, Source::FourBit>(x, bytes, rows, stride)
           : launch_rows<std::uint8_t, Source::E4M3>(x, bytes, rows, stride);
  }
  return out;
}

LtMatrix wide_operand(const GemmOperand& x, LtType type, Arena& scratch) {
  const QTensor& q = x.matrix;
  const bool bf16_wanted = type == LtType::BF16;
  const std::int64_t stride = round_up(q.cols, bf16_wanted ? 8 : 4);
  LtMatrix out{q.codes.raw(), type, stride, x.transposed};
  const bool as_stored = q.element == (bf16_wanted ? ElementFormat::BF16 : ElementFormat::F32);
  if (as_stored && q.cols == stride && address(out.data) % 16 == 0) return out;
  const Tensor values = scratch.allocate(bf16_wanted ? DType::BF16 : DType::F32, {q.rows, stride});
  out.data = values.raw();
  bf16_wanted ? launch_wide<bf16>(x, values.raw(), stride) : launch_wide<float>(x, values.raw(), stride);
  return out;
}

}  // namespace nibble::cuda
