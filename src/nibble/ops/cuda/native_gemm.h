// Products by Blackwell's block-scaled FP4 tensor cores (ops/native.h): cuBLASLt's kernels, or one of our own where it
// has none.
#pragma once

#include <optional>

#include "nibble/ops/native.h"
#include "nibble/ops/self_test.h"

namespace nibble::cuda {

enum class NativeKernel : std::uint8_t {
  Library,  ///< cuBLASLt: NVFP4 on compute capability 10.0 and 12.0; MXFP4 where its version has it
  Mma,      ///< mma.sync, compute capability 12.0 (native_mma.h)
};

/// The kernel that `native_gemm` takes: the first of the list that is for this GPU, passed its self-test in this
/// process (run by the first such call: it allocates and waits, so not while a graph is being captured) and takes the
/// product's shape. None where the operands do not qualify.
std::optional<NativeKernel> native_kernel(const GemmOperand& a, const GemmOperand& b);

/// C = A B^T + addend (which may be undefined, or C). Throws InternalError when the kernel does not take the product.
/// Scratch: the scales in tiles, and the codes of operands that are stored transposed.
void native_gemm(NativeKernel kernel, const GemmOperand& a, const GemmOperand& b, const Tensor& addend, const Tensor& c,
                 Arena& scratch);

/// Why this GPU has no such kernel, in a sentence; empty where it has.
std::string native_refusal(NativeKernel kernel, NativeFormat format);
/// Whether the kernel agrees with the CPU; tried at the first call.
const SelfTest& native_self_test(NativeKernel kernel, NativeFormat format);

/// Codes and scales in the form of ops/native.h, on the device; what is not in place is written to scratch.
struct NativeOperand {
  const void* codes = nullptr;
  const void* scales = nullptr;
};
NativeOperand native_operand(const GemmOperand& x, NativeFormat format, Arena& scratch);

}  // namespace nibble::cuda
