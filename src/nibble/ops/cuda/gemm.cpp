#include "nibble/ops/gemm.h"

#include <algorithm>

#include "nibble/ops/cuda/blocks128.h"
#include "nibble/ops/cuda/gemm_epilogue.h"
#include "nibble/ops/cuda/gemm_operand.h"
#include "nibble/ops/cuda/lt_matmul.h"
#include "nibble/ops/cuda/mx_correction.h"
#include "nibble/ops/cuda/native_gemm.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/memory.h"
#include "nibble/tensor/cuda/runtime.h"

// Operands become dense matrices of FP8, BF16 or F32 (gemm_operand.h), cuBLASLt multiplies them (lt_matmul.h), and the
// scales that are left go into its epilogue where it has one for them:
//
//   scales of A and B             FP8                              BF16, F32
//   numbers of the host           alpha                            alpha
//   numbers of the device         its scale pointers               alpha on the device
//   one for each row, column      its outer vectors (Hopper)       F32 sums, then scale_sums
//
// Scales of 128 elements along the contraction go to the library as they are, for FP8 products (blocks128.h).
//
// MXFP4 becomes FP8 with scales of rows, less some blocks, whose products are added afterwards (mx_operand.h,
// mx_correction.h).
//
// On Blackwell, NVFP4 and MXFP4 stay as they are stored (native_gemm.h).
//
// F32 sums and scale_sums also serve where it refuses a shape (FP8 with N no multiple of 16) or a type (F32 operands
// and a BF16 C).
//
// Rates on an H100 (cuBLASLt 13.1, BF16 output, operands at hand), BF16 / FP8 with outer vectors, TFLOP/s:
//   16384 x 2048 x 2048 837 / 1254      16384 x 5632 x 2048 864 / 1138      16384 x 2048 x 5632 798 / 1253
//   8192^3              891 / 1274      16384 x 4096 x 4096 880 / 1230      4096 x 768 x 768    422 / 436

namespace nibble::cuda {
namespace {

/// F32 sums that wait for scale_sums at a time: most of them are still in L2 when it comes.
constexpr std::int64_t kSumsBytes = std::int64_t{64} << 20;

LtType lt_type(DType dtype) { return dtype == DType::F32 ? LtType::F32 : LtType::BF16; }

bool has_fp8_tensor_cores() {
  static const bool has = device().compute_capability >= 89;
  return has;
}

/// A and B are dense: C by one product, scales included, if the library takes it so.
bool multiply_scaled(LtProduct p, const OuterScales& s, const Tensor& c, const Tensor& addend) {
  const bool fp8 = p.a.type == LtType::E4M3 || p.a.type == LtType::E5M2;
  if (s.rows != nullptr && !fp8) return false;
  if (p.n != c.dim(1) || (p.a.type == LtType::F32 && c.dtype() != DType::F32)) return false;
  p.c = c.raw();
  p.c_type = lt_type(c.dtype());
  p.c_stride = c.dim(1);
  p.add = addend.defined();
  p.addend = addend.raw();
  p.alpha = s.factor;
  if (p.scales == LtProduct::Scales::Blocks128) return lt_matmul(p);
  if (s.rows != nullptr) {
    p.scales = LtProduct::Scales::Vector;
    p.scale_a = s.rows;
    p.scale_b = s.cols;
  } else if (s.device != nullptr && fp8) {
    p.scales = LtProduct::Scales::Scalar;
    p.scale_a = s.device;
    p.scale_b = s.device + 1;
  } else if (s.device != nullptr) {
    p.device_alpha_beta = s.device + 2;
  }
  return lt_matmul(p);
}

/// C by F32 sums, unscaled, and a pass over them. The product may be wider than C.
void multiply_then_scale(LtProduct p, const OuterScales& s, const Tensor& c, Accumulate accumulate, Arena& scratch) {
  const ArenaScope scope(scratch);
  const bool in_c = c.dtype() == DType::F32 && accumulate == Accumulate::Overwrite && p.n == c.dim(1) && p.n % 4 == 0;
  const std::int64_t m = p.m;
  const std::int64_t stride = round_up(p.n, 4);
  const std::int64_t panel = in_c ? m : std::min(m, std::max<std::int64_t>(128, kSumsBytes / (stride * 4) / 128 * 128));
  float* sums = in_c ? c.data<float>() : scratch.allocate(DType::F32, {panel, stride}).data<float>();
  const std::int64_t a_step = (p.a.transposed ? 1 : p.a.stride) * (p.a.type == LtType::F32    ? 4
                                                                   : p.a.type == LtType::BF16 ? 2
                                                                                              : 1);
  p.c = sums;
  p.c_type = LtType::F32;
  p.c_stride = stride;
  const auto* a = static_cast<const std::byte*>(p.a.data);
  for (std::int64_t first = 0; first < m; first += panel) {
    p.m = std::min(panel, m - first);
    p.a.data = a + first * a_step;
    require(lt_matmul(p), "gemm: cuBLASLt has no product of {} x {} x {} for operands of types {} and {}", p.m, p.n,
            p.k, static_cast<int>(p.a.type), static_cast<int>(p.b.type));
    scale_sums(sums, stride, s, first, c.row_range(first, first + p.m), accumulate);
  }
}

}  // namespace

GemmPath gemm_path(const GemmOperand& a, const GemmOperand& b) {
  const bool both_e5m2 = a.matrix.element == ElementFormat::E5M2 && b.matrix.element == ElementFormat::E5M2;
  if (exact_in_fp8(a) && exact_in_fp8(b) && !both_e5m2 && has_fp8_tensor_cores()) return GemmPath::Fp8;
  if (native_kernel(a, b)) return GemmPath::Native;
  if (has_fp8_tensor_cores() && is_blocks128(a, b)) return GemmPath::Fp8;
  const bool anchored = mx_products() == MxProducts::Fp8 && is_mxfp4(a) && is_mxfp4(b);
  if (anchored && has_fp8_tensor_cores()) return GemmPath::Fp8;
  return exact_in_bf16(a) && exact_in_bf16(b) ? GemmPath::Bf16 : GemmPath::F32;
}

namespace {

/// C = A B^T of dense operands with their scales, plus the addend where there is one.
void multiply(const LtProduct& p, const OuterScales& s, const Tensor& addend, const Tensor& c, Arena& scratch) {
  if (multiply_scaled(p, s, c, addend)) return;
  if (addend.defined() && addend.raw() != c.raw()) cuda::convert(addend, c);
  multiply_then_scale(p, s, c, addend.defined() ? Accumulate::Add : Accumulate::Overwrite, scratch);
}

/// The same for MXFP4 through FP8, in p's extents.
void multiply_mxfp4(LtProduct p, const GemmOperand& a, const GemmOperand& b, const Tensor& addend, const Tensor& c,
                    Arena& scratch) {
  const Tensor n_listed = scratch.allocate(DType::I32, {2});
  cuda::fill_zero(n_listed);
  const MxOperand x = mx_operand(a, p.m, n_listed.data<std::int32_t>(), scratch);
  const MxOperand y = mx_operand(b, p.n, n_listed.data<std::int32_t>() + 1, scratch);
  p.a = x.bytes;
  p.b = y.bytes;
  OuterScales s;
  s.rows = x.scales;
  s.cols = y.scales;
  multiply(p, s, addend, c, scratch);
  add_left_out(a, x, b, y, c);
}

/// C = A B^T, plus the addend where there is one.
void product(const GemmOperand& a, const GemmOperand& b, const Tensor& addend, const Tensor& c, Arena& scratch) {
  LtProduct p;
  p.m = outer_extent(a);
  p.n = outer_extent(b);
  p.k = inner_extent(a);
  if (p.m == 0 || p.n == 0) return;
  if (p.k == 0) {
    if (!addend.defined()) return cuda::fill_zero(c);
    if (addend.raw() != c.raw()) cuda::convert(addend, c);
    return;
  }

  const ArenaScope scope(scratch);
  const GemmPath path = cuda::gemm_path(a, b);
  if (path == GemmPath::Native) return native_gemm(*native_kernel(a, b), a, b, addend, c, scratch);
  if (path == GemmPath::Fp8) {
    // Zeros fill up K and N, which the library wants in sixteens.
    p.n = round_up(p.n, 16);
    p.k = round_up(p.k, 16);
    if (is_mxfp4(a)) return multiply_mxfp4(p, a, b, addend, c, scratch);
  }
  const OuterScales s = outer_scales(a, b, addend.defined() ? 1.0f : 0.0f, scratch);
  switch (path) {
    case GemmPath::Fp8:
      p.a = fp8_operand(a, p.m, scratch);
      p.b = fp8_operand(b, p.n, scratch);
      p.fast_accumulation = fp8_accumulation() == Fp8Accumulation::Fast;
      if (has_inner_scales(a)) {
        p.scales = LtProduct::Scales::Blocks128;
        p.scale_a = blocks128_scales(a, scratch);
        p.scale_b = blocks128_scales(b, scratch);
      }
      break;
    case GemmPath::Bf16:
      p.a = wide_operand(a, LtType::BF16, scratch);
      p.b = wide_operand(b, LtType::BF16, scratch);
      break;
    default:
      p.a = wide_operand(a, LtType::F32, scratch);
      p.b = wide_operand(b, LtType::F32, scratch);
      break;
  }
  multiply(p, s, addend, c, scratch);
}

}  // namespace

void gemm(const GemmOperand& a, const GemmOperand& b, const Tensor& c, Accumulate accumulate, Arena& scratch) {
  product(a, b, accumulate == Accumulate::Add ? c : Tensor(), c, scratch);
}

void gemm_onto(const Tensor& addend, const GemmOperand& a, const GemmOperand& b, const Tensor& c, Arena& scratch) {
  product(a, b, addend, c, scratch);
}

}  // namespace nibble::cuda
