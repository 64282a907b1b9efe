#include "nibble/ops/machine.h"

#include <omp.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <fstream>
#include <map>
#include <mutex>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace nibble {

namespace {

// Each loop keeps twelve accumulators in registers: latency (4-5 cycles) times two instructions a cycle needs ten.
// Inline assembly, because compilers fold or spill such loops. Returns operations done.
#if defined(__x86_64__)
#define NIBBLE_TWELVE(OP, REG)                                                                                        \
  OP " %%" REG "12, %%" REG "13, %%" REG "0\n" OP " %%" REG "12, %%" REG "13, %%" REG "1\n" OP " %%" REG "12, %%" REG \
     "13, %%" REG "2\n" OP " %%" REG "12, %%" REG "13, %%" REG "3\n" OP " %%" REG "12, %%" REG "13, %%" REG "4\n" OP  \
     " %%" REG "12, %%" REG "13, %%" REG "5\n" OP " %%" REG "12, %%" REG "13, %%" REG "6\n" OP " %%" REG "12, %%" REG \
     "13, %%" REG "7\n" OP " %%" REG "12, %%" REG "13, %%" REG "8\n" OP " %%" REG "12, %%" REG "13, %%" REG "9\n" OP  \
     " %%" REG "12, %%" REG "13, %%" REG "10\n" OP " %%" REG "12, %%" REG "13, %%" REG "11\n"
#define NIBBLE_CLOBBERS \
  "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", "xmm9", "xmm10", "xmm11", "xmm12", "xmm13"
#define NIBBLE_LOOP(NAME, OP, REG, CLEAR, OPS)                                                                      \
  double NAME(std::int64_t rounds) {                                                                                \
    std::int64_t n = rounds;                                                                                        \
    asm volatile(NIBBLE_TWELVE(CLEAR, REG) CLEAR " %%" REG "12, %%" REG "12, %%" REG "12\n" CLEAR " %%" REG         \
                                                 "13, %%" REG "13, %%" REG                                          \
                                                 "13\n"                                                             \
                                                 "1:\n" NIBBLE_TWELVE(OP, REG) "sub $1, %0\n jnz 1b\n vzeroupper\n" \
                 : "+r"(n)                                                                                          \
                 :                                                                                                  \
                 : NIBBLE_CLOBBERS, "cc");                                                                          \
    return static_cast<double>(rounds) * 12.0 * (OPS);                                                              \
  }
NIBBLE_LOOP(fma_avx2, "vfmadd231ps", "ymm", "vpxor", 8 * 2)
NIBBLE_LOOP(fma_avx512, "vfmadd231ps", "zmm", "vpxord", 16 * 2)
NIBBLE_LOOP(vnni_avx512, "vpdpbusd", "zmm", "vpxord", 64 * 2)
NIBBLE_LOOP(bf16_avx512, "vdpbf16ps", "zmm", "vpxord", 32 * 2)
// Without VNNI an int8 dot product is three instructions; the first sets the pace of the two others.
NIBBLE_LOOP(maddubs_avx2, "vpmaddubsw", "ymm", "vpxor", 32 * 2 / 3.0)
#undef NIBBLE_LOOP
#undef NIBBLE_CLOBBERS
#undef NIBBLE_TWELVE
#endif

// What the compiler makes of plain C++: every AArch64 CPU, and an x86-64 CPU without FMA.
double f32_portable(std::int64_t rounds) {
  using Vector [[gnu::vector_size(16)]] = float;
  constexpr int kVectors = 12;
  Vector sum[kVectors] = {};
  const Vector factor = {0.999f, 0.999f, 0.999f, 0.999f};
  const Vector term = {0.5f, 0.5f, 0.5f, 0.5f};
  for (Vector& s : sum) asm volatile("" : "+m"(s));  // equal sums would be computed once
  for (std::int64_t r = 0; r < rounds; ++r) {
#pragma GCC unroll 12  // sums in registers
    for (Vector& s : sum) {
#if defined(__aarch64__)
      asm("fmla %0.4s, %1.4s, %2.4s" : "+w"(s) : "w"(factor), "w"(term));
#else
      s = s * factor + term;
#endif
    }
  }
  for (Vector& s : sum) asm volatile("" : : "m"(s));
  return static_cast<double>(rounds) * kVectors * 4 * 2;
}

/// Best of a few runs on every thread at once.
template <class Loop>
double rate(Loop loop) {
  constexpr std::int64_t kRounds = 400'000;  // a few milliseconds
  double best = 0;
  for (int attempt = 0; attempt < 4; ++attempt) {
    double operations = 0;
    const auto start = std::chrono::steady_clock::now();
#pragma omp parallel reduction(+ : operations)
    operations += loop(kRounds);
    const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
    best = std::max(best, operations / seconds);
  }
  return best;
}

MachinePeak measure() {
  MachinePeak peak;
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) {
    peak.f32 = rate(fma_avx512);
    if (__builtin_cpu_supports("avx512vnni")) peak.int8 = rate(vnni_avx512);
    if (__builtin_cpu_supports("avx512bf16")) peak.bf16 = rate(bf16_avx512);
  } else if (__builtin_cpu_supports("fma")) {
    peak.f32 = rate(fma_avx2);
  }
  if (peak.int8 == 0 && __builtin_cpu_supports("avx2")) peak.int8 = rate(maddubs_avx2);
#endif
  if (peak.f32 == 0) peak.f32 = rate(f32_portable);
  return peak;
}

}  // namespace

const MachinePeak& machine_peak() {
  static std::mutex mutex;
  static std::map<int, MachinePeak> by_threads;
  const std::lock_guard lock(mutex);
  const auto [entry, is_new] = by_threads.try_emplace(omp_get_max_threads());
  if (is_new) entry->second = measure();
  return entry->second;
}

std::string cpu_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

std::string cpu_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  std::string text = "x86-64";
  if (__builtin_cpu_supports("avx2")) text += " avx2";
  if (__builtin_cpu_supports("fma")) text += " fma";
  if (__builtin_cpu_supports("avx512f")) text += " avx512";
  if (__builtin_cpu_supports("avx512vnni")) text += " vnni";
  if (__builtin_cpu_supports("avx512bf16")) text += " bf16";
  return text;
#elif defined(__aarch64__)
  return "aarch64 neon";
#else
  return "generic";
#endif
}

}  // namespace nibble
