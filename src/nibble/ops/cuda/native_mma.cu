#include "nibble/ops/cuda/native_mma.h"
#include "nibble/ops/cuda/native_mma_layout.h"
#include "nibble/tensor/cuda/runtime.h"

// Bound by the tensor cores: a block of 256 threads keeps 128 x 128 sums in registers, 64 a thread, and reads 16 KiB of
// codes and 1 to 2 KiB of scales for 4 MFLOP. Four stages are in flight by cp.async (72 KiB of shared memory, one block
// a multiprocessor); a stage is waited for once, and its two steps of 16 mma each need six ldmatrix and two loads of
// scales (native_mma_layout.h).

namespace nibble::cuda {
namespace {

using namespace native_mma;

constexpr int kStages = 4;

constexpr int scale_tiles(NativeFormat format) { return format == NativeFormat::Nvfp4 ? 2 : 1; }  // of a stage
constexpr int scale_bytes(NativeFormat format) { return scale_tiles(format) * static_cast<int>(kScaleTileBytes); }
constexpr int stage_bytes(NativeFormat format) { return 2 * (kOperandBytes + scale_bytes(format)); }

struct Arguments {
  NativeProduct p;
  const void* addend = nullptr;
  void* c = nullptr;
};

// The instruction is one of a GPU, not of all that follow it: other GPUs get a kernel that does nothing, and the
// self-test before first use refuses it.
#if defined(__CUDA_ARCH_FEAT_SM120_ALL) || defined(__CUDA_ARCH_FEAT_SM121_ALL)
#define NIBBLE_BLOCK_SCALED_MMA 1
#endif

#ifdef NIBBLE_BLOCK_SCALED_MMA

/// 16 bytes to shared memory; zeros where `valid` is false.
__device__ __forceinline__ void copy_piece(std::uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(to), "l"(from), "r"(valid ? 16 : 0) : "memory");
}

__device__ __forceinline__ void load_matrices(std::uint32_t from, std::uint32_t (&x)[4]) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(from)
               : "memory");
}

__device__ __forceinline__ void load_words(std::uint32_t from, std::uint32_t (&x)[4]) {
  asm volatile("ld.shared.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(x[0]), "=r"(x[1]), "=r"(x[2]), "=r"(x[3])
               : "r"(from)
               : "memory");
}

/// Sums += A B^T of 16 x 64 and 8 x 64 codes. kStep says which bytes of the scale words hold E8M0 scales: a word
/// covers two steps.
template <NativeFormat kFormat, int kStep>
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4], std::uint32_t b0, std::uint32_t b1,
                                         std::uint32_t a_scales, std::uint32_t b_scales) {
  if constexpr (kFormat == NativeFormat::Nvfp4) {
    asm volatile(
        "mma.sync.aligned.m16n8k64.row.col.kind::mxf4nvf4.block_scale.scale_vec::4X.f32.e2m1.e2m1.f32.ue4m3 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, %10, {0, 0}, %11, {0, 0};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(a_scales), "r"(b_scales));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k64.row.col.kind::mxf4.block_scale.scale_vec::2X.f32.e2m1.e2m1.f32.ue8m0 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3}, %10, {%12, 0}, %11, {%12, 0};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "r"(a_scales), "r"(b_scales), "n"(2 * kStep));
  }
}

/// One operand of a stage: its 128 rows of codes, and after those of both operands its scales.
template <NativeFormat kFormat>
__device__ __forceinline__ void copy_operand(std::uint32_t codes, std::uint32_t scales, const std::uint8_t* from,
                                             const std::uint8_t* scales_from, std::int64_t first_row, std::int64_t rows,
                                             std::int64_t row_bytes, std::int64_t stage, std::int64_t across) {
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int i = 0; i < kTile * kPieces / kThreads; ++i) {
    const int row = (thread + i * kThreads) / kPieces;
    const int piece = thread % kPieces;
    const std::int64_t at = stage * kRowBytes + piece * 16;
    const bool inside = first_row + row < rows && at < row_bytes;
    copy_piece(codes + piece_place(row, piece), inside ? from + (first_row + row) * row_bytes + at : from, inside);
  }
  if (thread < scale_bytes(kFormat) / 16) {
    const std::int64_t tile = stage * scale_tiles(kFormat) + thread * 16 / kScaleTileBytes;
    const bool inside = tile < across;
    const std::int64_t at = (first_row / kTile * across + stage * scale_tiles(kFormat)) * kScaleTileBytes + thread * 16;
    copy_piece(scales + thread * 16, inside ? scales_from + at : scales_from, inside);
  }
}

template <NativeFormat kFormat, int kStep>
__device__ __forceinline__ void multiply_step(float (&sums)[kTilesOfWarp][kTilesOfWarp][4], std::uint32_t a,
                                              std::uint32_t b, std::uint32_t a_scales, std::uint32_t b_scales, int warp,
                                              int lane) {
  constexpr int kScaleTile = kFormat == NativeFormat::Nvfp4 ? kStep * static_cast<int>(kScaleTileBytes) : 0;
  std::uint32_t scales_a[4];
  std::uint32_t scales_b[4];
  std::uint32_t y[2][4];
  load_words(a_scales + kScaleTile + a_scale_row(warp, lane) * 16, scales_a);
  load_words(b_scales + kScaleTile + b_scale_row(warp, lane) * 16, scales_b);
#pragma unroll
  for (int j = 0; j < 2; ++j) load_matrices(b + b_address(warp, lane, 2 * j, kStep), y[j]);
#pragma unroll
  for (int i = 0; i < kTilesOfWarp; ++i) {
    std::uint32_t x[4];
    load_matrices(a + a_address(warp, lane, i, kStep), x);
#pragma unroll
    for (int j = 0; j < kTilesOfWarp; ++j) {
      multiply<kFormat, kStep>(sums[i][j], x, y[j / 2][j % 2 * 2], y[j / 2][j % 2 * 2 + 1], scales_a[i], scales_b[j]);
    }
  }
}

__device__ __forceinline__ void store_pair(float* c, const float* addend, float x, float y) {
  const float2 before = addend == nullptr ? float2{0.0f, 0.0f} : *reinterpret_cast<const float2*>(addend);
  *reinterpret_cast<float2*>(c) = addend == nullptr ? float2{x, y} : float2{x + before.x, y + before.y};
}
__device__ __forceinline__ void store_pair(bf16* c, const bf16* addend, float x, float y) {
  if (addend != nullptr) {
    x = x + bf16_decode(addend[0]);
    y = y + bf16_decode(addend[1]);
  }
  *reinterpret_cast<std::uint32_t*>(c) =
      std::uint32_t{bf16_encode(x).bits} | static_cast<std::uint32_t>(bf16_encode(y).bits) << 16;
}

#endif  // NIBBLE_BLOCK_SCALED_MMA

template <NativeFormat kFormat, class T>
__global__ __launch_bounds__(kThreads, 1) void block_scaled_product(Arguments arguments) {
#ifdef NIBBLE_BLOCK_SCALED_MMA
  extern __shared__ __align__(16) std::uint8_t memory[];
  const auto shared = static_cast<std::uint32_t>(__cvta_generic_to_shared(memory));
  const NativeProduct& p = arguments.p;
  const std::int64_t row_bytes = p.k / 2;
  const std::int64_t across = scale_tiles_across(native_scale_cols(kFormat, p.k));
  const std::int64_t first_m = std::int64_t{blockIdx.x} * kTile;
  const std::int64_t first_n = std::int64_t{blockIdx.y} * kTile;
  const std::int64_t stages = (row_bytes + kRowBytes - 1) / kRowBytes;
  const int warp = static_cast<int>(threadIdx.x) / 32;
  const int lane = static_cast<int>(threadIdx.x) % 32;

  const auto place = [&](std::int64_t stage) {
    return shared + static_cast<std::uint32_t>(stage % kStages) * stage_bytes(kFormat);
  };
  const auto fetch_stage = [&](std::int64_t stage) {
    if (stage < stages) {
      const std::uint32_t a = place(stage);
      const std::uint32_t scales = a + 2 * kOperandBytes;
      copy_operand<kFormat>(a, scales, static_cast<const std::uint8_t*>(p.a),
                            static_cast<const std::uint8_t*>(p.a_scales), first_m, p.m, row_bytes, stage, across);
      copy_operand<kFormat>(a + kOperandBytes, scales + scale_bytes(kFormat), static_cast<const std::uint8_t*>(p.b),
                            static_cast<const std::uint8_t*>(p.b_scales), first_n, p.n, row_bytes, stage, across);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");  // an empty group at the end keeps the count
  };

  float sums[kTilesOfWarp][kTilesOfWarp][4] = {};
  for (std::int64_t stage = 0; stage < kStages - 1; ++stage) fetch_stage(stage);
  for (std::int64_t stage = 0; stage < stages; ++stage) {
    asm volatile("cp.async.wait_group %0;" ::"n"(kStages - 2) : "memory");
    __syncthreads();  // the stage is there for all, and all are done with the one that is overwritten next
    fetch_stage(stage + kStages - 1);
    const std::uint32_t a = place(stage);
    const std::uint32_t b = a + kOperandBytes;
    const std::uint32_t a_scales = b + kOperandBytes;
    const std::uint32_t b_scales = a_scales + scale_bytes(kFormat);
    multiply_step<kFormat, 0>(sums, a, b, a_scales, b_scales, warp, lane);
    multiply_step<kFormat, 1>(sums, a, b, a_scales, b_scales, warp, lane);
  }

  const float factor = p.device_factor == nullptr ? p.factor : p.factor * *p.device_factor;
  auto* c = static_cast<T*>(arguments.c);
  const auto* addend = static_cast<const T*>(arguments.addend);
#pragma unroll
  for (int i = 0; i < kTilesOfWarp; ++i) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const std::int64_t row = first_m + c_row(warp, lane, i, half);
      if (row >= p.m) continue;
#pragma unroll
      for (int j = 0; j < kTilesOfWarp; ++j) {
        const std::int64_t col = first_n + c_col(warp, lane, j);
        if (col >= p.n) continue;
        const std::int64_t at = row * p.n + col;
        store_pair(c + at, addend == nullptr ? nullptr : addend + at, factor * sums[i][j][2 * half],
                   factor * sums[i][j][2 * half + 1]);
      }
    }
  }
#else
  static_cast<void>(arguments);
#endif
}

template <NativeFormat kFormat, class T>
void launch(const Arguments& arguments) {
  const NativeProduct& p = arguments.p;
  constexpr int kBytes = kStages * stage_bytes(kFormat);
  auto* kernel = block_scaled_product<kFormat, T>;
  static const bool prepared = [&] {
    check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, kBytes),
          "asking for shared memory");
    return true;
  }();
  static_cast<void>(prepared);
  const dim3 grid(static_cast<unsigned>((p.m + kTile - 1) / kTile), static_cast<unsigned>((p.n + kTile - 1) / kTile));
  kernel<<<grid, kThreads, kBytes, stream()>>>(arguments);
  launched("block_scaled_product");
}

}  // namespace

void native_mma(NativeFormat format, const NativeProduct& product, const Tensor& addend, const Tensor& c) {
  require(product.k % 32 == 0 && product.n % 2 == 0 && product.n <= std::int64_t{65535} * kTile,
          "a block-scaled product of {} x {} x {}", product.m, product.n, product.k);
  Arguments arguments;
  arguments.p = product;
  arguments.addend = addend.defined() ? addend.raw() : nullptr;
  arguments.c = c.raw();
  dispatch_float(c.dtype(), [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    format == NativeFormat::Nvfp4 ? launch<NativeFormat::Nvfp4, T>(arguments)
                                  : launch<NativeFormat::Mxfp4, T>(arguments);
  });
}

}  // namespace nibble::cuda
