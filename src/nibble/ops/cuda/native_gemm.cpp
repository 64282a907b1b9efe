#include "nibble/ops/cuda/native_gemm.h"

#include "nibble/ops/cuda/gemm_epilogue.h"
#include "nibble/ops/cuda/lt_matmul.h"
#include "nibble/ops/cuda/native_mma.h"
#include "nibble/ops/operand_scales.h"
#include "nibble/tensor/cuda/memory.h"

namespace nibble::cuda {
namespace {

constexpr NativeKernel kKernels[] = {NativeKernel::Library, NativeKernel::Mma};

int capability() {
  static const int found = device().compute_capability;
  return found;
}

/// The product as cuBLASLt is asked for it, pointers not set.
LtProduct library_product(NativeFormat format, std::int64_t m, std::int64_t n, std::int64_t k, DType c) {
  LtProduct p;
  p.m = m;
  p.n = n;
  p.k = k;
  p.a.type = p.b.type = LtType::E2M1;
  p.a.stride = p.b.stride = k;
  p.c_type = c == DType::F32 ? LtType::F32 : LtType::BF16;
  p.c_stride = n;
  p.scales = format == NativeFormat::Nvfp4 ? LtProduct::Scales::Blocks16 : LtProduct::Scales::Blocks32;
  return p;
}

bool takes(NativeKernel kernel, NativeFormat format, std::int64_t m, std::int64_t n, std::int64_t k) {
  if (kernel == NativeKernel::Mma) return true;
  return lt_offers(library_product(format, m, n, k, DType::F32)) &&
         lt_offers(library_product(format, m, n, k, DType::BF16));
}

}  // namespace

std::string native_refusal(NativeKernel kernel, NativeFormat format) {
  if (capability() / 10 != 10 && capability() / 10 != 12) {
    return fmt::format("it needs a GPU of compute capability 10.0 or 12.0 (Blackwell), and this one has {}.{}",
                       capability() / 10, capability() % 10);
  }
  if (kernel == NativeKernel::Mma && capability() / 10 != 12) {
    return fmt::format("its instruction is one of compute capability 12.0, and this GPU has {}.{}", capability() / 10,
                       capability() % 10);
  }
  if (!takes(kernel, format, 256, 256, 256)) {
    return fmt::format("the cuBLASLt that was found has no {} product for this GPU", native_format_name(format));
  }
  return {};
}

std::optional<NativeKernel> native_kernel(const GemmOperand& a, const GemmOperand& b) {
  const NativeFormat format = native_format(a, b);
  if (format == NativeFormat::None) return std::nullopt;
  for (const NativeKernel kernel : kKernels) {
    if (native_self_test(kernel, format).verdict != SelfTest::Verdict::Passed) continue;
    if (takes(kernel, format, outer_extent(a), outer_extent(b), inner_extent(a))) return kernel;
  }
  return std::nullopt;
}

void native_gemm(NativeKernel kernel, const GemmOperand& a, const GemmOperand& b, const Tensor& addend, const Tensor& c,
                 Arena& scratch) {
  const NativeFormat format = native_format(a, b);
  require(format != NativeFormat::None, "a native product of operands that do not qualify");
  const ArenaScope scope(scratch);
  const OuterScales s = outer_scales(a, b, addend.defined() ? 1.0f : 0.0f, scratch);
  require(s.rows == nullptr && s.cols == nullptr, "a native product with scales of rows");
  const NativeOperand x = native_operand(a, format, scratch);
  const NativeOperand y = native_operand(b, format, scratch);
  const std::int64_t m = outer_extent(a);
  const std::int64_t n = outer_extent(b);
  const std::int64_t k = inner_extent(a);
  if (kernel == NativeKernel::Mma) {
    NativeProduct p;
    p.m = m;
    p.n = n;
    p.k = k;
    p.a = x.codes;
    p.b = y.codes;
    p.a_scales = x.scales;
    p.b_scales = y.scales;
    p.factor = s.factor;
    p.device_factor = s.device == nullptr ? nullptr : s.device + 2;
    native_mma(format, p, addend, c);
    return;
  }
  LtProduct p = library_product(format, m, n, k, c.dtype());
  p.a.data = x.codes;
  p.b.data = y.codes;
  p.scale_a = x.scales;
  p.scale_b = y.scales;
  p.c = c.raw();
  p.add = addend.defined();
  p.addend = addend.raw();
  p.alpha = s.factor;
  if (s.device != nullptr) p.device_alpha_beta = s.device + 2;
  require(lt_matmul(p), "cuBLASLt refused a native {} product of {} x {} x {}", native_format_name(format), m, n, k);
}

}  // namespace nibble::cuda
