#include <chrono>
#include <map>

#include "nibble/ops/cuda/native_gemm.h"
#include "nibble/ops/device_operand.h"
#include "nibble/ops/native_check.h"
#include "nibble/tensor/cuda/memory.h"

namespace nibble::cuda {
namespace {

constexpr NativeFormat kFormats[] = {NativeFormat::Nvfp4, NativeFormat::Mxfp4};

SelfTest try_kernel(NativeKernel kernel, NativeFormat format) {
  SelfTest test;
  test.name = fmt::format("native {} by {}", native_format_name(format),
                          kernel == NativeKernel::Library ? "cuBLASLt" : "mma.sync");
  test.reason = native_refusal(kernel, format);
  if (!test.reason.empty()) {
    test.verdict = SelfTest::Verdict::Refused;
    return test;
  }
  const auto start = std::chrono::steady_clock::now();
  Arena scratch(Device::Cuda, std::size_t{4} << 20);
  const NativeTrial trial = [&](const GemmOperand& a, const GemmOperand& b, const Tensor& addend, const Tensor& c,
                                bool device_scales) {
    const DeviceOperand x(a.matrix, device_scales);
    const DeviceOperand y(b.matrix, device_scales);
    const OwnedTensor result = copy_to(c, Device::Cuda);
    const OwnedTensor added = addend.defined() ? copy_to(addend, Device::Cuda) : OwnedTensor();
    native_gemm(kernel, {x.q(), a.transposed}, {y.q(), b.transposed}, added, result, scratch);
    nibble::copy(result, c);
  };
  try {
    test.reason = native_disagreement(format, trial);
  } catch (const std::exception& error) {
    test.reason = error.what();
  }
  if (!test.reason.empty()) test.verdict = SelfTest::Verdict::Failed;
  test.seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return test;
}

}  // namespace

const SelfTest& native_self_test(NativeKernel kernel, NativeFormat format) {
  static std::map<std::pair<NativeKernel, NativeFormat>, SelfTest> tried;
  const auto found = tried.find({kernel, format});
  if (found != tried.end()) return found->second;
  return tried.emplace(std::pair{kernel, format}, try_kernel(kernel, format)).first->second;
}

std::vector<SelfTest> native_self_tests() {
  std::vector<SelfTest> tests;
  if (devices() == 0) return tests;
  for (const NativeFormat format : kFormats) {
    for (const NativeKernel kernel : {NativeKernel::Library, NativeKernel::Mma}) {
      tests.push_back(native_self_test(kernel, format));
    }
  }
  return tests;
}

}  // namespace nibble::cuda
