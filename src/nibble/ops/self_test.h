// Self-tests: small inputs through the kernels of this GPU, held against the CPU. `nibble doctor` prints them, and a
// kernel that could not be tried where it was written (native FP4 products) is used only after it passed.
#pragma once

#include <string>
#include <vector>

#include "nibble/tensor/tensor.h"

namespace nibble {

struct SelfTest {
  enum class Verdict : std::uint8_t { Passed, Failed, Refused };

  std::string name;  ///< "product FP4 rows, path fp8", "quantise NVFP4 1x16"
  Verdict verdict = Verdict::Passed;
  std::string reason;  ///< one sentence, empty when it passed
  double seconds = 0;
};
/// "passed", "failed", "refused".
const char* verdict_name(SelfTest::Verdict verdict);

/// All self-tests of the GPU that this process computes on, run at the first call; empty without a GPU.
///
///   products    sums of FP4 codes: the same numbers. Of sum |a b|: FP4 by rows within 2^-21, operands in F32 2^-18,
///               in BF16 2^-16, MXFP4 through FP8 and native FP4 2^-9
///   quantisers  codes, scales, tensor scale: bit for bit, for the specifications that recipes use most
///   attention   forward and backward in BF16: within 2^-6 of the largest value
///   native      as native_check.h says; kernels that this GPU or its cuBLASLt lacks are refused
const std::vector<SelfTest>& self_tests();

namespace cuda {
/// One a kernel and format of native FP4 products, tried at the first call; none in a build without CUDA.
std::vector<SelfTest> native_self_tests();
}  // namespace cuda

}  // namespace nibble
