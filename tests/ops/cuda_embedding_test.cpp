#include "nibble/ops/embedding.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

struct Case {
  std::int64_t count, vocab, d;
  bool skewed;  // a few tokens have most of the positions, as in text
};

constexpr Case kCases[] = {{1, 1, 1, false},        {5, 3, 7, false},       {2048, 32000, 512, true},
                           {1000, 50257, 96, true}, {777, 130, 129, false}, {300, 5000, 2048, true},
                           {4096, 33, 132, true},   {0, 100, 64, false},    {64, 4096, 12, false}};

std::vector<std::int32_t> tokens_of(const Case& c) {
  std::mt19937 engine(7);
  std::uniform_real_distribution<double> uniform(0.0, 1.0);
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(c.count));
  for (auto& token : tokens) {
    const double u = uniform(engine);
    const double share = c.skewed ? u * u * u * u * u * u : u;
    token = static_cast<std::int32_t>(std::min(share * static_cast<double>(c.vocab), static_cast<double>(c.vocab - 1)));
  }
  return tokens;
}

std::string describe(const Case& c, DType dtype) {
  return fmt::format("{} tokens of {}, {} wide, {}", c.count, c.vocab, c.d, dtype_name(dtype));
}

TEST(CudaEmbedding, ForwardHasTheCpusBits) {
  NIBBLE_NEEDS_GPU();
  for (const Case& c : kCases) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(describe(c, dtype));
      const OwnedTensor tokens = tokens_tensor(tokens_of(c));
      const OwnedTensor table = random_tensor(DType::F32, {c.vocab, c.d}, 1);
      const OwnedTensor x(dtype, {c.count, c.d});
      embedding_forward(tokens, table, x);
      const OwnedTensor gpu_x = zeros_on_gpu(dtype, {c.count, c.d});
      embedding_forward(on_gpu(tokens), on_gpu(table), gpu_x);
      expect_same_bits(x, gpu_x, "x");
      fill_zero(gpu_x);
      embedding_forward(on_gpu(tokens), Misaligned(table), gpu_x);
      expect_same_bits(x, gpu_x, "x from a misaligned table");
    }
  }
}

TEST(CudaEmbedding, BackwardAddsInTheCpusOrder) {
  NIBBLE_NEEDS_GPU();
  Arena cpu_scratch;
  Arena gpu_scratch(Device::Cuda);
  for (const Case& c : kCases) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(describe(c, dtype));
      const OwnedTensor tokens = tokens_tensor(tokens_of(c));
      const OwnedTensor dx = random_tensor(dtype, {c.count, c.d}, 1);
      const OwnedTensor dtable = random_tensor(DType::F32, {c.vocab, c.d}, 2);
      const OwnedTensor gpu_dtable = on_gpu(dtable);
      const OwnedTensor from_misaligned = on_gpu(dtable);
      embedding_backward(on_gpu(tokens), on_gpu(dx), gpu_dtable, gpu_scratch);
      embedding_backward(on_gpu(tokens), Misaligned(dx), from_misaligned, gpu_scratch);
      embedding_backward(tokens, dx, dtable, cpu_scratch);
      expect_same_bits(dtable, gpu_dtable, "dtable");
      expect_same_bits(dtable, from_misaligned, "dtable from a misaligned dx");
    }
  }
}

TEST(CudaEmbedding, OneTokenAtEveryPosition) {
  NIBBLE_NEEDS_GPU();
  Arena cpu_scratch;
  Arena gpu_scratch(Device::Cuda);
  const OwnedTensor tokens = tokens_tensor(std::vector<std::int32_t>(3000, 31999));
  const OwnedTensor dx = random_tensor(DType::F32, {3000, 132}, 1);
  const OwnedTensor dtable(DType::F32, {32000, 132});
  const OwnedTensor gpu_dtable = on_gpu(dtable);
  embedding_backward(tokens, dx, dtable, cpu_scratch);
  embedding_backward(on_gpu(tokens), on_gpu(dx), gpu_dtable, gpu_scratch);
  expect_same_bits(dtable, gpu_dtable, "dtable");
}

TEST(CudaEmbedding, UnknownTokensGiveNanAndTakeNoGradient) {
  NIBBLE_NEEDS_GPU();
  Arena scratch(Device::Cuda);
  const OwnedTensor tokens = on_gpu(tokens_tensor({1, -1, 40, 2, 2'147'483'647, -2'147'483'647 - 1, 39}));
  const OwnedTensor table = random_tensor(DType::F32, {40, 8}, 1);
  const OwnedTensor x = zeros_on_gpu(DType::F32, {7, 8});
  embedding_forward(tokens, on_gpu(table), x);
  const std::vector<double> values = doubles(on_cpu(x));
  const std::vector<double> rows = doubles(table);
  for (const std::size_t t : {1u, 2u, 4u, 5u}) EXPECT_TRUE(std::isnan(values[t * 8])) << t;
  EXPECT_EQ(values[0], rows[8]);
  EXPECT_EQ(values[6 * 8 + 7], rows[39 * 8 + 7]);

  const OwnedTensor dx = random_tensor(DType::F32, {7, 8}, 2);
  const OwnedTensor dtable = zeros_on_gpu(DType::F32, {40, 8});
  embedding_backward(tokens, on_gpu(dx), dtable, scratch);
  const std::vector<double> added = doubles(on_cpu(dtable));
  const std::vector<double> grad = doubles(dx);
  for (std::size_t i = 0; i < 8; ++i) {
    EXPECT_EQ(added[1 * 8 + i], grad[i]);
    EXPECT_EQ(added[2 * 8 + i], grad[3 * 8 + i]);
    EXPECT_EQ(added[39 * 8 + i], grad[6 * 8 + i]);
    EXPECT_EQ(added[38 * 8 + i], 0.0);
    EXPECT_EQ(added[i], 0.0);
  }
}

}  // namespace
}  // namespace nibble
