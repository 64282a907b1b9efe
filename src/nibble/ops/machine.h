// What this CPU is and how fast it multiplies: the "speed of light" that rates are compared with.
#pragma once

#include <string>

namespace nibble {

/// Peak rates of all threads together, in operations a second (a multiply-add counts two). bf16 and int8 are 0 where
/// the CPU has no such instruction, or none that nibble measures; f32 never is. Measured once a process with
/// register-only loops (about 0.1 s).
struct MachinePeak {
  double f32 = 0;   ///< multiply-add, fused where the CPU has FMA
  double bf16 = 0;  ///< BF16 dot product with F32 accumulation (AVX-512 BF16)
  double int8 = 0;  ///< u8 x s8 dot product with int32 accumulation (AVX-512 VNNI, else AVX2)
};
const MachinePeak& machine_peak();

std::string cpu_name();
/// The vector extensions that nibble or its libraries use here, "avx2 fma avx512 vnni bf16".
std::string cpu_isa();

}  // namespace nibble
