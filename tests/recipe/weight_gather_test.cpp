// Ranks that share the rows of a weight leave what one process makes of the whole: every shipped recipe in every stage,
// and every kind of operand, with as many bytes on the way as was said.
#include "nibble/recipe/weight_gather.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cstring>
#include <map>

#include "nibble/quant/requantize.h"
#include "tests/recipe/linear_testing.h"
#include "tests/recipe/shipped_recipes.h"
#include "tests/thread_ranks.h"

namespace nibble {
namespace {

using testing::Layer;
using testing::Shape;
using testing_support::on_thread_ranks;
using testing_support::ThreadRank;

std::vector<std::byte> bytes(const Tensor& t) {
  const auto* begin = static_cast<const std::byte*>(t.raw());
  return t.numel() == 0 ? std::vector<std::byte>{} : std::vector<std::byte>(begin, begin + t.bytes());
}

using Figures = std::array<double, 13>;
Figures figures(const QuantQuality& q) {
  const auto n = [](std::int64_t count) { return static_cast<double>(count); };
  return {q.signal,
          q.noise,
          q.dot,
          q.quantised,
          q.error,
          q.magnitude,
          n(q.count),
          n(q.underflow),
          n(q.clamped),
          n(q.clipped),
          n(q.blocks),
          n(q.scale_saturated),
          n(q.scale_underflow)};
}

/// What a layer shows of itself after some steps.
struct Seen {
  std::vector<std::vector<std::byte>> products;  ///< y, dX, dW of each step
  std::vector<Figures> quality;
  std::vector<double> oscillation;
  std::vector<std::byte> weight;
  std::int64_t resets = 0;
  std::map<std::string, std::vector<std::byte>> state;
};

struct Case {
  Shape shape;
  std::size_t stage = 0;
  bool measure = false;
  bool outliers = false;   ///< their channels have been chosen
  std::int64_t first = 3;  ///< step; odd ones are prepared for the forward, then for the backward
  std::int64_t steps = 2;  ///< that are taken
  std::int64_t of = 100;   ///< steps of the run
};

/// A layer in the state that the case wants.
struct Run {
  Run(const Recipe& recipe, const Case& c) : layer(recipe, c.shape), c(c) {
    layer.linear.set_stage(c.stage);
    layer.pass.measure_quality = c.measure;
    // The last row is the largest: scales that all rows share are another's on most ranks.
    float* w = layer.w.view().data<float>();
    for (std::int64_t i = 0; i < c.shape.in; ++i) w[(c.shape.out - 1) * c.shape.in + i] *= 3;
  }
  void choose(const Tensor& w) {
    if (!c.outliers) return;
    for (int times = 0; times < 2; ++times) {  // once more so that the layer looks at what was written
      layer.linear.visit_state(w, [&](const std::string& name, const Tensor& t) {
        if (name != "outlier_channels") return;
        for (std::int64_t i = 0; i < t.numel(); ++i) t.data<std::int32_t>()[i] = static_cast<std::int32_t>(2 * i + 1);
      });
    }
  }
  void products(Seen& seen) {
    layer.forward();
    layer.backward();
    for (const Tensor& t : {layer.y.view(), layer.dx.view(), layer.dw.view()}) seen.products.push_back(bytes(t));
  }
  /// The step of an optimizer: every element moves, some of them back and forth.
  static void move(const Tensor& w, std::int64_t first_row, std::int64_t step) {
    for (std::int64_t i = 0; i < w.numel(); ++i) {
      const std::int64_t at = first_row * w.cols() + i;
      w.data<float>()[i] += (at % 7 == 0 && step % 2 == 0 ? -1.0f : 1.0f) * 1e-3f * static_cast<float>(at % 5);
    }
  }
  void finish(Seen& seen, const Tensor& w) {
    for (const QuantQuality& q : layer.linear.quality()) seen.quality.push_back(figures(q));
    if (const auto& o = layer.linear.oscillation()) seen.oscillation = {o->quantised, o->weight};
    layer.linear.visit_state(w, [&](const std::string& name, const Tensor& t) { seen.state[name] = bytes(t); });
    seen.weight = bytes(w);
  }

  Layer layer;
  Case c;
};

// One thread a rank: the layers are small, and the number of threads changes no bit.
Seen alone(const Recipe& recipe, const Case& c) {
  omp_set_num_threads(1);
  Seen seen;
  Run run(recipe, c);
  run.choose(run.layer.w);
  for (std::int64_t step = c.first; step < c.first + c.steps; ++step) {
    run.layer.pass.step = static_cast<std::uint32_t>(step);
    run.layer.weights.rewind({});
    run.layer.prepare();
    run.products(seen);
    Run::move(run.layer.w, 0, step);
    seen.resets += run.layer.linear.after_update(run.layer.w, step, c.of, run.layer.scratch);
  }
  run.finish(seen, run.layer.w);
  return seen;
}

/// One rank of several. Checks bytes on the way against the plan.
Seen shared(const Recipe& recipe, const Case& c, ThreadRank& rank) {
  omp_set_num_threads(1);
  Seen seen;
  Run run(recipe, c);
  Layer& l = run.layer;
  const RowPieces pieces(c.shape.out, rank.size());
  const RowRange own = pieces.of(rank.rank());
  OwnedTensor values(DType::F32, {own.size(), c.shape.in});
  if (own.size() > 0) convert(l.w.view().row_range(own.begin, own.end), values);
  fill_zero(l.w);
  const WeightRows rows{values, pieces, rank.rank()};
  run.choose(values);
  rank.late = true;
  for (std::int64_t step = c.first; step < c.first + c.steps; ++step) {
    l.pass.step = static_cast<std::uint32_t>(step);
    l.weights.rewind({});
    const std::int64_t reduced = rank.reduced;
    OwnedTensor magnitudes(DType::I32, {l.linear.magnitudes(rows)});
    l.linear.find_magnitudes(rows, l.pass.seed, l.pass.step, magnitudes, l.scratch);
    rank.all_reduce(magnitudes, Reduce::Max);
    const auto counts = weight_magnitudes(l.linear.recipe(), pieces, c.shape.in, c.outliers ? 128 : 0);
    EXPECT_EQ(rank.reduced - reduced, 4 * (counts[0] + counts[1] + counts[2]));
    const auto prepare = [&](WeightUse use, bool again) {
      const WeightGather plan = l.linear.gather(rows, use, c.measure);
      const std::int64_t before = rank.gathered;
      l.linear.start_prepare(rows, magnitudes, rank, l.pass.seed, l.pass.step, l.weights, l.scratch, use, c.measure,
                             again);
      l.linear.finish_prepare(l.scratch);
      EXPECT_EQ(rank.gathered - before, plan.bytes());
      EXPECT_TRUE(rank.size() > 1 || plan.parts.empty());
    };
    if (step % 2 == 0) {
      prepare(WeightUse::Both, false);
      l.forward();
    } else {
      prepare(WeightUse::Forward, false);
      l.forward();
      l.weights.rewind({});  // other layers' operands come and go
      prepare(WeightUse::Backward, true);
    }
    EXPECT_EQ(l.linear.weights(), c.shape.out * c.shape.in);
    l.backward();
    for (const Tensor& t : {l.y.view(), l.dx.view(), l.dw.view()}) seen.products.push_back(bytes(t));
    Run::move(values, own.begin, step);
    seen.resets += l.linear.after_update(rows, rank, step, c.of, l.scratch);
  }
  run.finish(seen, values);
  return seen;
}

/// What ranks saw is what one process saw: products and figures of all, rows of each.
void expect_same(const Seen& all, const std::vector<Seen>& ranks, const Case& c) {
  const RowPieces pieces(c.shape.out, static_cast<int>(ranks.size()));
  std::int64_t resets = 0;
  for (std::size_t r = 0; r < ranks.size(); ++r) {
    SCOPED_TRACE("rank " + std::to_string(r) + " of " + std::to_string(ranks.size()));
    const Seen& seen = ranks[r];
    for (std::size_t i = 0; i < all.products.size(); ++i) {
      ASSERT_EQ(seen.products[i], all.products[i]) << "product " << i % 3 << " of step " << i / 3;
    }
    EXPECT_EQ(seen.quality, all.quality);
    EXPECT_EQ(seen.oscillation, all.oscillation);
    const RowRange own = pieces.of(static_cast<int>(r));
    const auto rows_of = [&](const std::vector<std::byte>& whole) {
      const std::ptrdiff_t row = 4 * c.shape.in;
      return std::vector<std::byte>(whole.begin() + own.begin * row, whole.begin() + own.end * row);
    };
    EXPECT_EQ(seen.weight, rows_of(all.weight));
    ASSERT_EQ(seen.state.size(), all.state.size());
    for (const auto& [name, tensor] : all.state) {
      EXPECT_EQ(seen.state.at(name), Linear::state_has_rows(name) ? rows_of(tensor) : tensor) << name;
    }
    resets += seen.resets;
  }
  EXPECT_EQ(resets, all.resets);
}

void expect_any_ranks(const Recipe& recipe, const Case& c) {
  const Seen all = alone(recipe, c);
  for (const int size : {1, 2, 3, 4}) {
    std::vector<Seen> ranks(static_cast<std::size_t>(size));
    on_thread_ranks(size,
                    [&](ThreadRank& rank) { ranks[static_cast<std::size_t>(rank.rank())] = shared(recipe, c, rank); });
    expect_same(all, ranks, c);
    if (::testing::Test::HasFatalFailure()) return;
  }
}

/// Whether the transforms of the layer's backward divide N.
bool fits(const LinearRecipe& recipe, std::int64_t n) {
  const std::int64_t group = recipe[Operand::DgradDy].quant.hadamard.group;
  return group == 0 || n % group == 0;
}

class SharedRows : public testing_support::ShippedRecipe {
 protected:
  /// In all stages, for the layer as no module rule has it and as an exempt one.
  void expect_all_stages(Case c) {
    for (c.stage = 0; c.stage < recipe_.stages.size(); ++c.stage) {
      for (const LinearRecipe& linear : recipe_.stages[c.stage].linear) {
        Recipe one = testing::recipe_of(linear);
        if (!fits(linear, c.shape.out)) continue;
        Case in_one = c;
        in_one.stage = 0;
        SCOPED_TRACE("stage " + std::to_string(c.stage) + ", " + std::to_string(c.shape.out) + " rows" +
                     (c.measure ? ", measured" : ""));
        expect_any_ranks(one, in_one);
        if (HasFatalFailure()) return;
      }
    }
  }
};

TEST_P(SharedRows, LeaveWhatOneProcessMakesOfTheWholeWeight) {
  // 384: whole blocks and groups of 128 on 3 ranks, of 64 on 2. 200: a last piece that is no multiple of 16. 48: a rank
  // of 4 without rows.
  for (const std::int64_t n : {384, 200, 48}) expect_all_stages({.shape = {128, 256, n}});
}

TEST_P(SharedRows, AreMeasuredAsTheWholeWeightIs) {
  for (const std::int64_t n : {128, 200}) expect_all_stages({.shape = {128, 128, n}, .measure = true});
}

INSTANTIATE_TEST_SUITE_P(All, SharedRows, ::testing::ValuesIn(testing_support::shipped_recipes()),
                         testing_support::recipe_test_name);

Recipe shipped(const std::string& name) {
  return load_recipe(std::string(NIBBLE_SOURCE_DIR "/recipes/") + name + ".toml");
}

TEST(SharedRowsState, AveragesFollowEachRanksRows) {
  for (const std::int64_t n : {256, 200, 48}) {
    expect_any_ranks(testing::recipe_of(shipped("tetrajet").base()), {.shape = {64, 64, n}, .first = 9, .steps = 4});
  }
}

TEST(SharedRowsState, OutlierChannelsAndResetsAreThoseOfTheWhole) {
  LinearRecipe linear = shipped("tetrajet2").base();
  linear.oscillation_reset.threshold = 1.5;
  linear.oscillation_reset.period = 4;
  linear.oscillation_reset.window = 3;
  for (const bool measure : {false, true}) {
    for (const std::int64_t n : {256, 208, 48}) {
      const Case c{.shape = {64, 256, n}, .measure = measure, .outliers = true, .first = 64, .steps = 8};
      SCOPED_TRACE(n);
      expect_any_ranks(testing::recipe_of(linear), c);
    }
  }
  // The case resets something, or it would show nothing.
  EXPECT_GT(alone(testing::recipe_of(linear), {.shape = {64, 256, 256}, .first = 64, .steps = 8}).resets, 0);
}

TEST(SharedRowsState, ResetsUnderScalesThatAllRowsShareOrBordersCut) {
  LinearRecipe linear = shipped("nvfp4").base();
  linear.oscillation_reset = {
      .criterion = OscillationReset::Criterion::Edge, .threshold = 0.4, .period = 2, .window = 1};
  const Case c{.shape = {32, 64, 200}, .first = 64, .steps = 4};
  EXPECT_GT(alone(testing::recipe_of(linear), c).resets, 0);
  expect_any_ranks(testing::recipe_of(linear), c);
  QuantSpec& w = linear[Operand::FpropW].quant;
  w.granularity = Granularity::block(48, 16);  // no piece has whole ones
  EXPECT_FALSE(quantises_by_pieces(w, RowPieces(200, 3)));
  expect_any_ranks(testing::recipe_of(linear), c);
}

/// Kinds of operands that no shipped recipe has.
std::vector<std::pair<const char*, LinearRecipe>> uncommon() {
  std::vector<std::pair<const char*, LinearRecipe>> all;
  const auto add = [&](const char* name) -> LinearRecipe& { return all.emplace_back(name, LinearRecipe{}).second; };
  const auto scaled = [](ElementFormat element, Granularity granularity, ScaleRule rule, bool transposed) {
    QuantSpec spec;
    spec.element = element;
    spec.granularity = granularity;
    spec.scale = rule;
    spec.transposed = transposed;
    return spec;
  };
  const auto e4m3 = [&](Granularity g, bool t) { return scaled(ElementFormat::E4M3, g, ScaleRule::Absmax, t); };
  {
    LinearRecipe& r = add("a scale a row of the transposed dgrad.w");
    r[Operand::FpropW].quant = e4m3(Granularity::per_column(), false);
    r[Operand::DgradW].quant = e4m3(Granularity::per_row(), true);
  }
  {
    LinearRecipe& r = add("a scale of the tensor, transposed; columns of blocks");
    r[Operand::FpropW].quant = e4m3(Granularity::block(0, 32), false);
    r[Operand::DgradW].quant = e4m3(Granularity::per_tensor(), true);
  }
  {
    LinearRecipe& r = add("stochastic, four bits, 16 x 16 transposed, trust mask");
    r[Operand::FpropW].quant = testing::mxfp4(ScaleRule::QuestFloor, Rounding::Stochastic);
    r[Operand::FpropW].quant.trust_mask = true;
    r[Operand::DgradW].quant = testing::nvfp4(Rounding::Stochastic, true);
    r[Operand::DgradW].quant.granularity = Granularity::block(16, 16);
    r[Operand::DgradW].quant.trust_mask = true;
  }
  {
    LinearRecipe& r = add("Eden and a Hadamard transform along N, outer scales");
    r[Operand::FpropW].quant = testing::nvfp4();
    r[Operand::FpropW].quant.nvfp4.outer = 32;
    r[Operand::DgradW].quant = testing::nvfp4(Rounding::Eden, true);
    r[Operand::DgradW].quant.hadamard = {16, Hadamard::Signs::Step, false};
    r[Operand::DgradDy].quant.hadamard = {16, Hadamard::Signs::Step, false};
    r[Operand::DgradW].quant.nvfp4.outer = 16;
  }
  {
    LinearRecipe& r = add("a Hadamard transform along K under a scale of the tensor");
    r[Operand::FpropX].quant.hadamard = r[Operand::FpropW].quant.hadamard = {32, Hadamard::Signs::Step, false};
    r[Operand::FpropW].quant.element = ElementFormat::E2M1;
    r[Operand::FpropW].quant.granularity = Granularity::block(1, 16);
    r[Operand::FpropW].quant.scale = ScaleRule::Nvfp4;
    r[Operand::DgradW].quant = testing::nvfp4(Rounding::Stochastic, true);
  }
  {
    LinearRecipe& r = add("moments of blocks along N");
    r[Operand::FpropW].quant = testing::mxfp4(ScaleRule::Ceil6);
    r[Operand::DgradW].quant = testing::mxfp4(ScaleRule::QuestFloor, Rounding::NearestEven, true);
  }
  {
    LinearRecipe& r = add("a clamp a row, a clamp of the tensor");
    r[Operand::FpropW].quant = testing::mxfp4(ScaleRule::Ceil6);
    r[Operand::FpropW].quant.clamp = {.alpha = 0.97};
    r[Operand::DgradW].quant = testing::mxfp4(ScaleRule::Ceil6);
    r[Operand::DgradW].quant.clamp = {.alpha = 0.97, .per_row = false};
  }
  {
    LinearRecipe& r = add("dgrad.w in BF16 beside codes");
    r[Operand::FpropW].quant = testing::nvfp4();
    r[Operand::DgradW].quant = testing::unquantised(ElementFormat::BF16, true);
  }
  {
    LinearRecipe& r = add("everything in F32");
    for (OperandSpec& o : r.operands) o.quant.element = ElementFormat::F32;
  }
  {
    LinearRecipe& r = add("towards the average in blocks that borders cut");
    r[Operand::FpropW].quant = testing::mxfp4(ScaleRule::Ceil6, Rounding::Reference);
    r[Operand::FpropW].quant.granularity = Granularity::block(48, 32);
    r.weight_average = {.decay = 0.75, .start_step = 4};
  }
  return all;
}

TEST(SharedRowsOperands, OfEveryKindAreThoseOfTheWholeWeight) {
  for (const auto& [name, linear] : uncommon()) {
    for (const std::int64_t n : {256, 208, 96, 48}) {
      for (const bool measure : {false, true}) {
        SCOPED_TRACE(std::string(name) + ", " + std::to_string(n) + " rows");
        expect_any_ranks(testing::recipe_of(linear), {.shape = {16, 64, n}, .measure = measure, .steps = 3});
        if (HasFatalFailure()) return;
      }
    }
  }
}

}  // namespace
}  // namespace nibble
