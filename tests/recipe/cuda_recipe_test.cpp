// What the recipe room computes on a GPU, against the CPU.
#include <random>

#include "nibble/recipe/columns.h"
#include "nibble/recipe/oscillation_watch.h"
#include "nibble/recipe/outlier_channels.h"
#include "nibble/recipe/product_quality.h"
#include "nibble/recipe/trust_mask.h"
#include "nibble/recipe/weight_passes.h"
#include "tests/cuda_testing.h"

namespace nibble {
namespace {

using namespace testing_support;

struct Dims {
  std::int64_t rows, cols;
};
constexpr Dims kShapes[] = {{64, 256}, {37, 83}, {1, 200}, {70, 1}, {1, 1}, {1000, 2048}};

/// Every `step`-th column from `first` on, descending: an order of its own.
OwnedTensor some_columns(std::int64_t cols, std::int64_t first, std::int64_t step) {
  std::vector<std::int32_t> columns;
  for (std::int64_t c = first; c < cols; c += step) columns.insert(columns.begin(), static_cast<std::int32_t>(c));
  return tokens_tensor(columns);
}

TEST(CudaColumns, ArePlacedBesideOthersAsOnTheCpu) {
  NIBBLE_NEEDS_GPU();
  for (const DType dtype : {DType::F32, DType::BF16, DType::U8}) {
    for (const std::int64_t first : {0, 5, 40, 60}) {  // inside, cut off, beyond
      const OwnedTensor raw = random_tensor(DType::F32, {37, 24}, 1);
      const Tensor from(raw.view().raw(), dtype, {37, 24});
      const OwnedTensor from_gpu = on_gpu(from);
      const OwnedTensor to(dtype, {37, 50});
      const OwnedTensor to_gpu(dtype, {37, 50}, Device::Cuda);
      place_columns(from, to, first);
      place_columns(from_gpu, to_gpu, first);
      expect_same_bits(to, to_gpu, "placed columns");
    }
  }
}

TEST(CudaColumns, AreGatheredScatteredAndZeroedAsOnTheCpu) {
  NIBBLE_NEEDS_GPU();
  for (const auto& [rows, cols] : kShapes) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      for (const OwnedTensor& columns : {some_columns(cols, 0, 10), some_columns(cols, cols / 2, 1)}) {
        SCOPED_TRACE(testing::Message() << rows << " x " << cols << " " << dtype_name(dtype));
        const std::int64_t m = columns.view().numel();
        const OwnedTensor columns_gpu = on_gpu(columns);
        const OwnedTensor x = random_tensor(dtype, {rows, cols}, 1);
        const OwnedTensor x_gpu = on_gpu(x);
        const OwnedTensor part(dtype, {rows, m});
        const OwnedTensor part_gpu(dtype, {rows, m}, Device::Cuda);
        gather_columns(x, columns, part);
        gather_columns(x_gpu, columns_gpu, part_gpu);
        expect_same_bits(part, part_gpu, "gather_columns");

        const OwnedTensor added = random_tensor(DType::F32, {rows, m}, 2);
        const OwnedTensor added_gpu = on_gpu(added);
        for (const Accumulate accumulate : {Accumulate::Add, Accumulate::Overwrite}) {
          scatter_columns(added, columns, x, accumulate);
          scatter_columns(added_gpu, columns_gpu, x_gpu, accumulate);
          expect_same_bits(x, x_gpu, "scatter_columns");
        }
        zero_columns(x, columns);
        zero_columns(x_gpu, columns_gpu);
        expect_same_bits(x, x_gpu, "zero_columns");

        const OwnedTensor factors(DType::F32, {cols});
        const OwnedTensor factors_gpu(DType::F32, {cols}, Device::Cuda);
        hiding_factors(columns, factors);
        hiding_factors(columns_gpu, factors_gpu);
        expect_same_bits(factors, factors_gpu, "hiding_factors");
      }
    }
  }
}

TEST(CudaColumns, FirstOnesAreCopied) {
  NIBBLE_NEEDS_GPU();
  for (const DType dtype : {DType::F32, DType::BF16}) {
    const OwnedTensor x = random_tensor(dtype, {33, 50}, 3);
    for (const std::int64_t cols : {1, 7, 50}) {
      const OwnedTensor want(dtype, {33, cols});
      const OwnedTensor got(dtype, {33, cols}, Device::Cuda);
      first_columns(x, want);
      first_columns(on_gpu(x), got);
      expect_same_bits(want, got, "first_columns");
    }
  }
}

TEST(CudaColumns, SquaresAddUpToTheCpus) {
  NIBBLE_NEEDS_GPU();
  for (const auto& [rows, cols] : kShapes) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      SCOPED_TRACE(testing::Message() << rows << " x " << cols << " " << dtype_name(dtype));
      const OwnedTensor x = random_tensor(dtype, {rows, cols}, 4, 3.0f);
      const OwnedTensor x_gpu = on_gpu(x);
      const OwnedTensor sums = random_tensor(DType::F32, {cols}, 5);
      const OwnedTensor got = on_gpu(sums);
      const OwnedTensor again = on_gpu(sums);
      add_column_squares(x, sums);
      add_column_squares(x_gpu, got);
      add_column_squares(x_gpu, again);
      expect_close(sums, got, 1e-6, "add_column_squares");
      expect_same_bits(got, again, "add_column_squares twice");
    }
  }
}

TEST(CudaTrustMask, ClearsWhatTheCpuClears) {
  NIBBLE_NEEDS_GPU();
  for (const auto& [rows, cols] : kShapes) {
    for (const DType dtype : {DType::F32, DType::BF16}) {
      const OwnedTensor g = random_tensor(dtype, {rows, cols}, 5);
      const OwnedTensor mask(DType::U8, {rows, (cols + 7) / 8});
      std::mt19937 rng(6);
      for (std::int64_t i = 0; i < mask.view().numel(); ++i) {
        mask.view().data<std::uint8_t>()[i] = static_cast<std::uint8_t>(rng() % 4 == 0 ? 0xFF : rng());
      }
      const OwnedTensor got = on_gpu(g);
      apply_trust_mask(got, on_gpu(mask));
      apply_trust_mask(g, mask);
      expect_same_bits(g, got, "apply_trust_mask");
    }
  }
  const OwnedTensor g = random_tensor(DType::F32, {5, 8}, 5);  // a view whose rows are not aligned
  const OwnedTensor g_gpu = on_gpu(g);
  const Tensor tail(g.view().data<float>() + 1, DType::F32, {4, 8});
  const Tensor tail_gpu(g_gpu.view().data<float>() + 1, DType::F32, {4, 8}, Device::Cuda);
  const OwnedTensor mask(DType::U8, {4, 1});
  mask.view().data<std::uint8_t>()[1] = 0x5A;
  apply_trust_mask(tail_gpu, on_gpu(mask));
  apply_trust_mask(tail, mask);
  expect_same_bits(g, g_gpu, "apply_trust_mask of an unaligned view");
}

void expect_same_products(const ProductQuality& want, const ProductQuality& got) {
  EXPECT_NEAR(got.exact, want.exact, 1e-12 * want.exact);
  EXPECT_NEAR(got.computed, want.computed, 1e-12 * want.computed);
  EXPECT_NEAR(got.dot, want.dot, 1e-12 * want.exact);
  EXPECT_NEAR(got.noise, want.noise, 1e-12 * want.noise);
  EXPECT_EQ(got.count, want.count);
}

TEST(CudaProductQuality, SumsAreTheCpusAndTheSameEveryTime) {
  NIBBLE_NEEDS_GPU();
  for (const std::int64_t n : {1, 3, 8, 1027, 300000, 2000000}) {
    const OwnedTensor p = random_tensor(DType::F32, {1, n}, 1);
    const OwnedTensor before = random_tensor(DType::F32, {1, n}, 3);
    const OwnedTensor p_gpu = on_gpu(p);
    const OwnedTensor before_gpu = on_gpu(before);
    for (const DType dtype : {DType::F32, DType::BF16}) {
      SCOPED_TRACE(testing::Message() << n << " " << dtype_name(dtype));
      const OwnedTensor q = random_tensor(dtype, {1, n}, 2);
      const OwnedTensor q_gpu = on_gpu(q);
      const ProductQuality got = compare_products(p_gpu, q_gpu, Tensor());
      expect_same_products(compare_products(p, q, Tensor()), got);
      expect_same_products(compare_products(p, q, before), compare_products(p_gpu, q_gpu, before_gpu));
      EXPECT_EQ(got.noise, compare_products(p_gpu, q_gpu, Tensor()).noise);
    }
    const double want = sum_of_distances(p, before);
    const double got = sum_of_distances(p_gpu, before_gpu);
    EXPECT_NEAR(got, want, 1e-12 * want);
    EXPECT_EQ(got, sum_of_distances(p_gpu, before_gpu));
  }
  const OwnedTensor p = random_tensor(DType::F32, {4, 3}, 1);
  const OwnedTensor q = random_tensor(DType::F32, {4, 3}, 2);
  const OwnedTensor p_gpu = on_gpu(p);
  const OwnedTensor q_gpu = on_gpu(q);
  const double want = sum_of_distances(p.view().row_range(1, 4), q.view().row_range(1, 4));
  EXPECT_NEAR(sum_of_distances(p_gpu.view().row_range(1, 4), q_gpu.view().row_range(1, 4)), want, 1e-12 * want);
  expect_same_products(compare_products(p.view().row_range(1, 4), q.view().row_range(1, 4), Tensor()),
                       compare_products(p_gpu.view().row_range(1, 4), q_gpu.view().row_range(1, 4), Tensor()));
  EXPECT_EQ(sum_of_distances(p_gpu.view().row_range(0, 0), q_gpu.view().row_range(0, 0)), 0);
}

TEST(CudaWeightPasses, AveragesAreTheCpusToTheBit) {
  NIBBLE_NEEDS_GPU();
  for (const auto& [rows, cols] : kShapes) {
    const OwnedTensor average = random_tensor(DType::F32, {rows, cols}, 1);
    const OwnedTensor average_gpu = on_gpu(average);
    const OwnedTensor w = random_tensor(DType::F32, {rows, cols}, 2);
    update_average(average, w, 0.9972);
    update_average(average_gpu, on_gpu(w), 0.9972);
    expect_same_bits(average, average_gpu, "update_average");
  }
}

/// Values on E2M1's grid under the scale of their element.
struct Quantised {
  OwnedTensor w, q, scales;
};
Quantised quantised_weight(Dims shape, std::uint32_t seed) {
  constexpr float kGrid[] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f};
  Quantised x{random_tensor(DType::F32, {shape.rows, shape.cols}, seed),
              OwnedTensor(DType::F32, {shape.rows, shape.cols}), OwnedTensor(DType::F32, {shape.rows, shape.cols})};
  std::mt19937 rng(seed);
  for (std::int64_t i = 0; i < x.w.view().numel(); ++i) {
    const float scale = rng() % 17 == 0 ? 0.0f : 0.1f * static_cast<float>(1 + rng() % 7);
    x.scales.view().data<float>()[i] = scale;
    x.q.view().data<float>()[i] = scale * kGrid[rng() % 8] * (rng() % 2 == 0 ? 1.0f : -1.0f);
    x.w.view().data<float>()[i] = x.q.view().data<float>()[i] + 0.4f * scale * x.w.view().data<float>()[i];
  }
  return x;
}

TEST(CudaOscillation, WatchesAndResetsAsOnTheCpu) {
  NIBBLE_NEEDS_GPU();
  using Criterion = OscillationReset::Criterion;
  for (const Dims shape : {Dims{64, 256}, {37, 83}, {1, 200}, {70, 1}}) {
    for (const Criterion criterion : {Criterion::Ratio, Criterion::Edge}) {
      SCOPED_TRACE(testing::Message() << shape.rows << " x " << shape.cols);
      const OscillationReset spec{criterion, criterion == Criterion::Ratio ? 1.05 : 0.495, 0.0, 4, 3};
      OscillationWatch cpu(spec, shape.rows, shape.cols);
      OscillationWatch gpu(spec, shape.rows, shape.cols, Device::Cuda);
      std::int64_t resets = 0;
      for (std::int64_t step = 0; step <= 8; ++step) {
        if (!cpu.wants(step, 100)) continue;
        const Quantised x = quantised_weight(shape, static_cast<std::uint32_t>(step));
        const OwnedTensor flagged(DType::I32, {shape.rows});
        const OwnedTensor flagged_gpu(DType::I32, {shape.rows}, Device::Cuda);
        const OwnedTensor w_gpu = on_gpu(x.w);
        const OwnedTensor before = copy_to(x.w, Device::Cpu);
        const OwnedTensor before_gpu = on_gpu(x.w);
        const std::int64_t want = cpu.observe(x.w, x.q, x.scales, step, 100, flagged);
        EXPECT_EQ(gpu.observe(w_gpu, on_gpu(x.q), on_gpu(x.scales), step, 100, flagged_gpu), want);
        expect_same_bits(x.w, w_gpu, "the weight");
        expect_same_bits(flagged, flagged_gpu, "flagged");
        copy_flagged_rows(x.w, flagged, before);
        copy_flagged_rows(w_gpu, flagged_gpu, before_gpu);
        expect_same_bits(before, before_gpu, "the rows that hold some");
        resets += want;
      }
      EXPECT_GT(resets, 0);
      std::vector<OwnedTensor> state;
      gpu.visit_state([&](const std::string&, const Tensor& tensor) { state.push_back(on_cpu(tensor)); });
      std::size_t i = 0;
      cpu.visit_state(
          [&](const std::string& name, const Tensor& tensor) { expect_same_bits(tensor, state[i++], name.c_str()); });
    }
  }
}

TEST(CudaOutlierSelection, ChoosesTheChannelsThatTheCpuChooses) {
  NIBBLE_NEEDS_GPU();
  const OutlierChannels spec{.share = 0.1, .multiple = 8, .first_step = 2, .last_step = 3, .quant = {}};
  OutlierSelection cpu(spec, 200);
  OutlierSelection gpu(spec, 200, Device::Cuda);
  Arena arena;
  Arena arena_gpu(Device::Cuda);
  for (std::int64_t step = 1; step <= 4; ++step) {
    const OwnedTensor x = random_tensor(DType::BF16, {50, 200}, static_cast<std::uint32_t>(step));
    cpu.observe(x, step);
    gpu.observe(on_gpu(x), step);
    cpu.finish_step(step);
    gpu.finish_step(step);
    EXPECT_EQ(gpu.chosen(), step >= 3);
    EXPECT_EQ(cpu.chosen(), gpu.chosen());
    expect_same_bits(cpu.channels(), gpu.channels(), "channels");
  }
  expect_same_bits(cpu.others(arena), gpu.others(arena_gpu), "factors");
  // A checkpoint that is read into another selection makes its choice known there.
  OutlierSelection resumed(spec, 200, Device::Cuda);
  EXPECT_FALSE(resumed.chosen());
  std::vector<OwnedTensor> state;
  cpu.visit_state([&](const std::string&, const Tensor& tensor) { state.push_back(copy_to(tensor, Device::Cpu)); });
  std::size_t i = 0;
  resumed.visit_state([&](const std::string&, const Tensor& tensor) { copy(state[i++], tensor); });
  EXPECT_TRUE(resumed.chosen());
}

TEST(CudaWeightPasses, FillBytesFillsAll) {
  NIBBLE_NEEDS_GPU();
  const OwnedTensor want(DType::U8, {7, 13});
  const OwnedTensor got(DType::U8, {7, 13}, Device::Cuda);
  fill_bytes(want, 0x22);
  fill_bytes(got, 0x22);
  expect_same_bits(want, got, "fill_bytes");
}

}  // namespace
}  // namespace nibble
