// The numerics headers give the same bits on a GPU as on the host, and round as CUDA's own conversions do.
// Exit code: 0 equal, 1 different, 77 no GPU here.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp8.h>

#include <cstdio>
#include <cstring>
#include <vector>

#include "nibble/numerics/bf16.h"
#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/e3m0.h"
#include "nibble/numerics/fp16.h"
#include "nibble/numerics/fp8.h"
#include "nibble/numerics/int4.h"
#include "nibble/numerics/philox.h"

namespace nibble {
namespace {

constexpr std::uint32_t kInputs = 1u << 20;

/// The 65536 BF16 values, then floats with random bits: every exponent, full mantissas.
NIBBLE_FN float input(std::uint32_t i) { return bits_float(i < 0x10000u ? i << 16 : RandomStream{1, 2, 3}.word(i)); }

/// NaN payloads are not part of the contract.
NIBBLE_FN std::uint32_t plain_bits(float x) { return float_is_nan(x) ? 0x7FC0'0000u : float_bits(x); }

constexpr int kResults = 35;
constexpr const char* kNames[kResults] = {
    "e2m1 even",       "e2m1 up",        "e2m1 zero",   "e2m1 away",   "e2m1 stochastic", "e2m1 stochastic8",
    "e2m1 reference",  "e2m1 decode",    "int4 even",   "int4 up",     "int4 zero",       "int4 away",
    "int4 stochastic", "int4 decode",    "e3m0 even",   "e3m0 up",     "e3m0 zero",       "e3m0 away",
    "e3m0 stochastic", "e3m0 few steps", "e3m0 decode", "e4m3 encode", "e4m3 stochastic", "e4m3 decode",
    "e5m2 encode",     "e5m2 decode",    "e8m0 decode", "bf16 encode", "bf16 decode",     "fp16 encode",
    "fp16 saturate",   "fp16 decode",    "philox word", "random byte", "log2 floor"};

struct Results {
  std::uint32_t v[kResults];
};

NIBBLE_FN Results compute(std::uint32_t i) {
  const float x = input(i);
  const auto code8 = static_cast<std::uint8_t>(i);
  const auto code16 = static_cast<std::uint16_t>(i);
  const RandomStream random{0x123456789ABCDEFull, 4, 5};
  return {{e2m1_encode<Tie::Even>(x),
           e2m1_encode<Tie::Up>(x),
           e2m1_encode<Tie::Zero>(x),
           e2m1_encode<Tie::Away>(x),
           e2m1_encode_stochastic(x, random.word(i)),
           e2m1_encode_stochastic8(x, random.byte(i)),
           e2m1_encode_reference(x, input(i ^ 0x155)),
           plain_bits(e2m1_decode(code8)),
           int4_encode<Tie::Even>(x),
           int4_encode<Tie::Up>(x),
           int4_encode<Tie::Zero>(x),
           int4_encode<Tie::Away>(x),
           int4_encode_stochastic(x, random.word(i)),
           plain_bits(int4_decode(code8)),
           e3m0_encode<Tie::Even>(x),
           e3m0_encode<Tie::Up>(x),
           e3m0_encode<Tie::Zero>(x),
           e3m0_encode<Tie::Away>(x),
           e3m0_encode_stochastic(x, random.word(i)),
           e3m0_encode_stochastic(x, random.word(i), 4),
           plain_bits(e3m0_decode(code8)),
           e4m3_encode(x),
           e4m3_encode_stochastic(float_abs(x), random.word(i)),
           plain_bits(e4m3_decode(code8)),
           e5m2_encode(x),
           plain_bits(e5m2_decode(code8)),
           plain_bits(e8m0_decode(code8)),
           bf16_encode(x).bits,
           plain_bits(bf16_decode(bf16{code16})),
           fp16_encode(x),
           fp16_encode_saturate(x),
           plain_bits(fp16_decode(code16)),
           random.word(i),
           random.byte(i),
           static_cast<std::uint32_t>(float_is_finite(x) && x != 0 ? log2_floor(x) : 0)}};
}

__global__ void compute_all(Results* out) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < kInputs) out[i] = compute(i);
}

constexpr int kVendor = 6;
constexpr const char* kVendorNames[kVendor] = {"e2m1 (cuda_fp4.h)",  "e4m3 (cuda_fp8.h)",  "e5m2 (cuda_fp8.h)",
                                               "fp16 (cuda_fp16.h)", "bf16 (cuda_bf16.h)", "fp16 to float"};

struct VendorResults {
  std::uint32_t ours[kVendor];
  std::uint32_t theirs[kVendor];
};

/// One code for all NaNs of an 8- or 16-bit format.
__device__ std::uint32_t one_nan(std::uint32_t code, std::uint32_t sign_bit, std::uint32_t infinity) {
  return (code & ~sign_bit) > infinity ? 0xFFFFu : code;
}

__global__ void compare_with_vendor(VendorResults* out) {
  const std::uint32_t i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= kInputs) return;
  const float x = input(i);
  const auto code16 = static_cast<std::uint16_t>(i);
  const auto half = __float2half_rn(x);
  const auto brain = __float2bfloat16_rn(x);
  out[i] = {{e2m1_encode<Tie::Even>(x), one_nan(e4m3_encode(x), 0x80, 0x7E), one_nan(e5m2_encode(x), 0x80, 0x7C),
             one_nan(fp16_encode(x), 0x8000, 0x7C00), one_nan(bf16_encode(x).bits, 0x8000, 0x7F80),
             plain_bits(fp16_decode(code16))},
            {__nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest),
             one_nan(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3), 0x80, 0x7E),
             one_nan(__nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2), 0x80, 0x7C),
             one_nan(__half_as_ushort(half), 0x8000, 0x7C00), one_nan(__bfloat16_as_ushort(brain), 0x8000, 0x7F80),
             plain_bits(__half2float(__ushort_as_half(code16)))}};
}

int report(const char* name, const char* other, std::uint32_t i, std::uint32_t ours, std::uint32_t theirs, int shown) {
  if (shown < 10) std::printf("%s of %a: %#x, %s %#x\n", name, static_cast<double>(input(i)), ours, other, theirs);
  return 1;
}

template <class T>
bool download(void (*kernel)(T*), std::vector<T>& host) {
  T* device = nullptr;
  if (cudaMalloc(&device, kInputs * sizeof(T)) != cudaSuccess) return false;
  kernel<<<kInputs / 256, 256>>>(device);
  host.resize(kInputs);
  const cudaError_t copied = cudaMemcpy(host.data(), device, kInputs * sizeof(T), cudaMemcpyDeviceToHost);
  const cudaError_t ran = cudaGetLastError();
  cudaFree(device);
  if (copied != cudaSuccess || ran != cudaSuccess) {
    std::printf("kernel failed: %s\n", cudaGetErrorString(copied != cudaSuccess ? copied : ran));
    return false;
  }
  return true;
}

int run() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    std::printf("no CUDA device: skipped\n");
    return 77;
  }
  std::vector<Results> results;
  std::vector<VendorResults> vendor;
  if (!download(compute_all, results) || !download(compare_with_vendor, vendor)) return 1;
  int wrong = 0;
  for (std::uint32_t i = 0; i < kInputs; ++i) {
    const Results host = compute(i);
    for (int r = 0; r < kResults; ++r) {
      if (host.v[r] != results[i].v[r]) wrong += report(kNames[r], "on the GPU", i, host.v[r], results[i].v[r], wrong);
    }
    for (int r = 0; r < kVendor; ++r) {
      const std::uint32_t ours = vendor[i].ours[r];
      if (ours != vendor[i].theirs[r]) wrong += report(kVendorNames[r], "CUDA", i, ours, vendor[i].theirs[r], wrong);
    }
  }
  std::printf("%u inputs, %d conversions, %d compared with CUDA's: %d differences\n", kInputs, kResults, kVendor,
              wrong);
  return wrong == 0 ? 0 : 1;
}

}  // namespace
}  // namespace nibble

int main() { return nibble::run(); }
