#include <limits>

#include "nibble/ops/cross_entropy.h"
#include "tests/ops/cuda_ops_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

struct Case {
  std::int64_t rows, vocab;
};

// Small and large blocks, with whole packs and without, rows that shared memory holds and rows that it does not.
constexpr Case kCases[] = {{1, 1},     {3, 5},     {7, 4096},  {5, 8192},   {4, 8193},   {4, 32000},  {2, 50257},
                           {3, 57344}, {2, 57345}, {2, 57348}, {2, 128256}, {2, 100001}, {300, 1000}, {0, 4096}};

struct Inputs {
  explicit Inputs(const Case& c, float amplitude = 4.0f)
      : logits(random_tensor(DType::F32, {c.rows, c.vocab}, 1, amplitude)) {
    std::mt19937 engine(3);
    std::vector<std::int32_t> values(static_cast<std::size_t>(c.rows));
    for (std::size_t r = 0; r < values.size(); ++r) {
      const auto any = static_cast<std::int32_t>(engine() % static_cast<std::uint32_t>(c.vocab));
      values[r] = r % 5 == 4 ? -1 : r % 5 == 2 ? static_cast<std::int32_t>(c.vocab - 1) : any;
    }
    targets = tokens_tensor(values);
  }
  OwnedTensor logits, targets;
};

std::string describe(const Case& c) { return fmt::format("[{}, {}]", c.rows, c.vocab); }

void expect_forward_backward(const Inputs& in, DType dtype) {
  constexpr float kScale = 1.0f / 512;
  const std::int64_t rows = in.logits.view().dim(0);
  const std::int64_t vocab = in.logits.view().dim(1);
  const OwnedTensor loss(DType::F32, {rows});
  const OwnedTensor dlogits(dtype, {rows, vocab});
  cross_entropy_forward_backward(in.logits, in.targets, kScale, loss, dlogits);
  const OwnedTensor targets = on_gpu(in.targets);
  const OwnedTensor gpu_loss = zeros_on_gpu(DType::F32, {rows});
  const OwnedTensor gpu_dlogits = zeros_on_gpu(dtype, {rows, vocab});
  cross_entropy_forward_backward(on_gpu(in.logits), targets, kScale, gpu_loss, gpu_dlogits);
  expect_close(loss, gpu_loss, 1e-5, "loss");
  expect_close(dlogits, gpu_dlogits, op_tolerance(dtype), "dlogits");

  const OwnedTensor loss_alone = zeros_on_gpu(DType::F32, {rows});
  cross_entropy_forward(on_gpu(in.logits), targets, loss_alone);
  expect_same_bits(gpu_loss, loss_alone, "loss of the forward pass alone");

  const OwnedTensor in_place = on_gpu(in.logits);
  if (dtype == DType::F32) {
    cross_entropy_forward_backward(in_place, targets, kScale, loss_alone, in_place);
    expect_same_bits(gpu_dlogits, in_place, "dlogits in place");
    expect_same_bits(gpu_loss, loss_alone, "loss of the pass in place");
  }
}

TEST(CudaCrossEntropy, LossAndGradientAreTheCpus) {
  NIBBLE_NEEDS_GPU();
  for (const Case& c : kCases) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(describe(c) + " " + dtype_name(dtype));
      expect_forward_backward(Inputs(c), dtype);
    }
  }
}

TEST(CudaCrossEntropy, EachSmallProbabilityIsTheCpus) {
  NIBBLE_NEEDS_GPU();
  const Inputs in({4, 32000}, 1.0f);
  const OwnedTensor loss(DType::F32, {4});
  const OwnedTensor dlogits(DType::F32, {4, 32000});
  cross_entropy_forward_backward(in.logits, in.targets, 1.0f, loss, dlogits);
  const OwnedTensor gpu = on_gpu(in.logits);
  const OwnedTensor gpu_loss = zeros_on_gpu(DType::F32, {4});
  cross_entropy_forward_backward(gpu, on_gpu(in.targets), 1.0f, gpu_loss, gpu);
  const std::vector<double> expected = doubles(dlogits);
  const std::vector<double> got = doubles(on_cpu(gpu));
  double worst = 0;
  for (std::size_t i = 0; i < got.size(); ++i) {
    worst = std::max(worst, std::abs(got[i] - expected[i]) / std::max(1e-30, std::abs(expected[i])));
  }
  EXPECT_LE(worst, 1e-5);
}

TEST(CudaCrossEntropy, LargeLogitsAndMaskedEntries) {
  NIBBLE_NEEDS_GPU();
  for (const Case& c : {Case{4, 4096}, Case{4, 32000}, Case{4, 60000}, Case{4, 777}}) {
    SCOPED_TRACE(describe(c));
    const Inputs in(c, 30.0f);
    float* x = in.logits.view().data<float>();
    for (std::int64_t r = 0; r < c.rows; ++r) {
      const std::int32_t target = in.targets.view().data<std::int32_t>()[r];
      for (std::int64_t v = 0; v < c.vocab; ++v) {
        if (v % 3 != 0 && v != target) x[r * c.vocab + v] = -kInfinity;
      }
      x[r * c.vocab + 3] = 1e4f;  // far from 0: exp of it alone is infinite
    }
    for (const DType dtype : kFloatTypes) expect_forward_backward(in, dtype);
  }
}

TEST(CudaCrossEntropy, MaskedRowsAreOverwrittenWithExactlyZeroAsOnTheCpu) {
  NIBBLE_NEEDS_GPU();
  for (const Case& c : {Case{6, 777}, Case{6, 4096}, Case{6, 57348}}) {
    for (const DType dtype : kFloatTypes) {
      SCOPED_TRACE(describe(c) + " " + dtype_name(dtype));
      const Inputs in(c);
      const OwnedTensor targets = tokens_tensor({-1, -1, 5, -100, 6, -1});
      const OwnedTensor garbage = random_tensor(dtype, {c.rows, c.vocab}, 9);
      const OwnedTensor loss = random_tensor(DType::F32, {c.rows}, 10);
      const OwnedTensor gpu_loss = on_gpu(loss);
      const OwnedTensor gpu_dlogits = on_gpu(garbage);
      cross_entropy_forward_backward(in.logits, targets, 0.25f, loss, garbage);
      cross_entropy_forward_backward(on_gpu(in.logits), on_gpu(targets), 0.25f, gpu_loss, gpu_dlogits);
      expect_close(loss, gpu_loss, 1e-5, "loss");
      expect_close(garbage, gpu_dlogits, op_tolerance(dtype), "dlogits");
      const std::vector<double> losses = doubles(on_cpu(gpu_loss));
      const std::vector<double> gradient = doubles(on_cpu(gpu_dlogits));
      for (const std::int64_t r : {0, 1, 3, 5}) {
        EXPECT_EQ(losses[static_cast<std::size_t>(r)], 0);
        for (std::int64_t v = 0; v < c.vocab; ++v) ASSERT_EQ(gradient[static_cast<std::size_t>(r * c.vocab + v)], 0);
      }
    }
  }
}

TEST(CudaCrossEntropy, NanAndUnknownTargetsShowInTheLoss) {
  NIBBLE_NEEDS_GPU();
  const Inputs in({3, 4096});
  in.logits.view().data<float>()[100] = std::nanf("");
  const OwnedTensor targets = tokens_tensor({5, 4096, 7});
  const OwnedTensor loss = zeros_on_gpu(DType::F32, {3});
  cross_entropy_forward(on_gpu(in.logits), on_gpu(targets), loss);
  const std::vector<double> values = doubles(on_cpu(loss));
  EXPECT_TRUE(std::isnan(values[0]));
  EXPECT_TRUE(std::isnan(values[1]));
  EXPECT_FALSE(std::isnan(values[2]));
}

}  // namespace
}  // namespace nibble
