// How exact the FP8 tensor cores are on four-bit codes, by the library's two ways of adding. Both are printed; without
// fast accumulation the sums have to be exact.
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "nibble/numerics/e2m1.h"
#include "nibble/numerics/fp8.h"
#include "nibble/ops/cuda/lt_matmul.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using testing_support::on_cpu;
using testing_support::on_gpu;

using Values = std::function<float(std::int64_t outer, std::int64_t k)>;

/// E2M1 numbers as E4M3 bytes.
OwnedTensor e4m3_bytes(const Values& x, std::int64_t outer, std::int64_t k) {
  OwnedTensor t(DType::U8, {outer, k});
  for (std::int64_t i = 0; i < outer * k; ++i) t.view().data<std::uint8_t>()[i] = e4m3_encode(x(i / k, i % k));
  return t;
}

/// The product of such bytes on the GPU.
OwnedTensor fp8_product(const Tensor& a, const Tensor& b, bool fast) {
  const OwnedTensor p = on_gpu(a);
  const OwnedTensor q = on_gpu(b);
  const OwnedTensor c(DType::F32, {a.dim(0), b.dim(0)}, Device::Cuda);
  cuda::LtProduct product;
  product.m = a.dim(0);
  product.n = b.dim(0);
  product.k = a.dim(1);
  product.a = {p.view().raw(), cuda::LtType::E4M3, product.k, false};
  product.b = {q.view().raw(), cuda::LtType::E4M3, product.k, false};
  product.c = c.view().raw();
  product.c_stride = product.n;
  product.fast_accumulation = fast;
  EXPECT_TRUE(cuda::lt_matmul(product));
  return on_cpu(c);
}

/// The integers 2 x of E2M1 numbers x.
std::vector<std::int32_t> twice(const Tensor& bytes) {
  std::vector<std::int32_t> x(static_cast<std::size_t>(bytes.numel()));
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<std::int32_t>(2.0f * e4m3_decode(bytes.data<std::uint8_t>()[i]));
  }
  return x;
}

/// How many sums differ from the exact ones.
std::int64_t differing(const Tensor& a, const Tensor& b, bool fast) {
  const OwnedTensor got = fp8_product(a, b, fast);
  const std::vector<std::int32_t> x = twice(a);
  const std::vector<std::int32_t> y = twice(b);
  const std::int64_t n = b.dim(0);
  const std::int64_t k = a.dim(1);
  std::int64_t count = 0;
  for (std::int64_t i = 0; i < a.dim(0) * n; ++i) {
    const std::int32_t* row = x.data() + i / n * k;
    const std::int32_t* column = y.data() + i % n * k;
    std::int32_t sum = 0;
    for (std::int64_t j = 0; j < k; ++j) sum += row[j] * column[j];
    count += static_cast<double>(got.view().data<float>()[i]) != 0.25 * sum ? 1 : 0;
  }
  return count;
}

/// A number in [0, n) for each element.
std::uint32_t hashed(std::int64_t outer, std::int64_t k, std::uint32_t seed, std::uint32_t n) {
  auto x = static_cast<std::uint32_t>(outer) * 0x9E37'79B9u + static_cast<std::uint32_t>(k) * 0x85EB'CA6Bu + seed;
  x = (x ^ (x >> 16)) * 0x7FEB'352Du;
  x = (x ^ (x >> 15)) * 0x846C'A68Bu;
  return (x ^ (x >> 16)) % n;
}

TEST(CudaLtMatmul, LongSumsOfCodesAreExactWithoutFastAccumulation) {
  NIBBLE_NEEDS_GPU();
  const Values sixes = [](std::int64_t, std::int64_t) { return 6.0f; };
  const auto any = [](std::uint32_t seed) -> Values {
    return
        [=](std::int64_t r, std::int64_t k) { return e2m1_decode(static_cast<std::uint8_t>(hashed(r, k, seed, 16))); };
  };
  const auto positive = [](std::uint32_t seed) -> Values {
    return [=](std::int64_t r, std::int64_t k) {
      return e2m1_decode(static_cast<std::uint8_t>(1 + hashed(r, k, seed, 7)));
    };
  };
  const auto mostly_sixes = [](std::uint32_t seed) -> Values {  // sums up to 2^18.4 in steps of 2^-2
    return [=](std::int64_t r, std::int64_t k) { return hashed(r, k, seed, 4) == 0 ? 0.5f : 6.0f; };
  };
  const auto there_and_back = [=](std::uint32_t seed) -> Values {
    return [=](std::int64_t r, std::int64_t k) { return (k % 4096 < 2048 ? 1.0f : -1.0f) * positive(seed)(r, k); };
  };
  const struct {
    const char* name;
    Values a, b;
  } cases[] = {{"all codes", any(1), any(2)},
               {"all sixes", sixes, sixes},
               {"sixes by positive codes", sixes, positive(1)},
               {"positive codes", positive(1), positive(2)},
               {"mostly sixes", mostly_sixes(1), mostly_sixes(2)},
               {"there and back", there_and_back(1), positive(2)}};
  constexpr std::int64_t kRows = 128;
  for (const auto& c : cases) {
    for (const std::int64_t k : {2048, 16384}) {
      const OwnedTensor a = e4m3_bytes(c.a, kRows, k);
      const OwnedTensor b = e4m3_bytes(c.b, kRows, k);
      const std::int64_t slow = differing(a, b, false);
      const std::int64_t fast = differing(a, b, true);
      std::printf("  %-24s K %5lld: of %lld sums %lld differ, with fast accumulation %lld\n", c.name,
                  static_cast<long long>(k), static_cast<long long>(kRows * kRows), static_cast<long long>(slow),
                  static_cast<long long>(fast));
      EXPECT_EQ(slow, 0) << c.name << ", K " << k;
    }
  }
}

TEST(CudaLtMatmul, ASumBelow4096InAStretchOf128KeepsItsQuarter) {
  NIBBLE_NEEDS_GPU();
  // Row m of both: m sixes, then a half. C[m, m] = 36 m + 1/4 keeps the quarter as long as the accumulator has the
  // bits; with an addition in F32 after every stretch of 128 what counts is 36 (m % 128).
  constexpr std::int64_t kRows = 1024;
  const OwnedTensor x =
      e4m3_bytes([](std::int64_t m, std::int64_t k) { return k < m    ? 6.0f
                                                             : k == m ? 0.5f
                                                                      : 0.0f; }, kRows, kRows);
  for (const bool fast : {false, true}) {
    const OwnedTensor c = fp8_product(x, x, fast);
    std::string lost;
    std::int64_t run = -1;
    for (std::int64_t m = 0; m <= kRows; ++m) {
      const bool kept = m == kRows || c.view().data<float>()[m * kRows + m] == 36.0f * static_cast<float>(m) + 0.25f;
      if (!kept && run < 0) run = m;
      if (kept && run >= 0) {
        lost += fmt::format(" {}-{}", run, m - 1);
        run = -1;
      }
      if (!fast && 36 * (m % 128) < 4096) {
        EXPECT_TRUE(kept) << m << " sixes and a half";
      }
    }
    std::printf("  %s: the quarter is lost after this many sixes:%s\n",
                fast ? "fast accumulation" : "without fast accumulation", lost.empty() ? " never" : lost.c_str());
  }
}

}  // namespace
}  // namespace nibble
