#include "nibble/ops/cuda/blocks128.h"
#include "nibble/ops/cuda/gemm_operand.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/runtime.h"

namespace nibble::cuda {
namespace {

constexpr int kBlock = 128;
constexpr int kTile = 32;

/// to[j, r] = from[r, j] through a tile in shared memory; zeros beyond the rows. A few bytes for 128 elements.
__global__ void __launch_bounds__(kTile * 8)
    turn_scales(const float* __restrict__ from, std::int64_t rows, std::int64_t cols, float* __restrict__ to,
                std::int64_t stride) {
  __shared__ float tile[kTile][kTile + 1];
  const std::int64_t first_row = std::int64_t{blockIdx.x} * kTile;
  const std::int64_t first_col = std::int64_t{blockIdx.y} * kTile;
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += 8) {
    const std::int64_t r = first_row + i;
    const std::int64_t c = first_col + threadIdx.x;
    tile[i][threadIdx.x] = r < rows && c < cols ? from[r * cols + c] : 0.0f;
  }
  __syncthreads();
  for (int i = static_cast<int>(threadIdx.y); i < kTile; i += 8) {
    const std::int64_t c = first_col + i;
    const std::int64_t r = first_row + threadIdx.x;
    if (c < cols && r < stride) to[c * stride + r] = tile[threadIdx.x][i];
  }
}

bool in_blocks128(const GemmOperand& x) {
  const QTensor& q = x.matrix;
  return has_scale(q.element) && q.scale_format == ScaleFormat::F32 && !x.transposed && !q.outer_scales.defined() &&
         !q.device_scale.defined() && q.granularity == Granularity::block(1, kBlock) && q.cols % kBlock == 0 &&
         block_scales_are_inner(x);
}

LtType fp8_type(const GemmOperand& x) { return x.matrix.element == ElementFormat::E5M2 ? LtType::E5M2 : LtType::E4M3; }

}  // namespace

bool is_blocks128(const GemmOperand& a, const GemmOperand& b) {
  if (!in_blocks128(a) || !in_blocks128(b) || outer_extent(a) % 16 != 0 || outer_extent(b) % 16 != 0) return false;
  LtProduct p;
  p.m = outer_extent(a);
  p.n = outer_extent(b);
  p.k = inner_extent(a);
  if (p.m == 0 || p.n == 0) return false;
  p.a = {nullptr, fp8_type(a), p.k, false};
  p.b = {nullptr, fp8_type(b), p.k, false};
  p.scales = LtProduct::Scales::Blocks128;
  p.c_stride = p.n;
  for (const LtType c : {LtType::F32, LtType::BF16}) {
    p.c_type = c;
    if (!lt_offers(p)) return false;
  }
  return true;
}

const float* blocks128_scales(const GemmOperand& x, Arena& scratch) {
  const QTensor& q = x.matrix;
  const std::int64_t blocks = q.scale_cols();
  const std::int64_t stride = round_up(q.rows, 4);
  auto* turned = scratch.allocate(DType::F32, {blocks, stride}).data<float>();
  const auto tiles = [](std::int64_t n) { return static_cast<unsigned>((n + kTile - 1) / kTile); };
  require(tiles(blocks) <= 65535, "gemm: a contraction of {}", q.cols);
  turn_scales<<<dim3(tiles(stride), tiles(blocks)), dim3(kTile, 8), 0, stream()>>>(device_data<float>(q.scales, "gemm"),
                                                                                   q.rows, blocks, turned, stride);
  launched("turn_scales");
  return turned;
}

}  // namespace nibble::cuda
