#include "nibble/model/llama.h"

#include <gtest/gtest.h>
#include <omp.h>

#include <cmath>
#include <cstring>
#include <random>

#include "tests/model/llama_oracle.h"

namespace nibble {
namespace {

LlamaConfig tiny(std::int64_t kv_heads, bool tied) {
  LlamaConfig c;
  c.layers = 2;
  c.width = 12;
  c.heads = 2;
  c.kv_heads = kv_heads;
  c.ffn = 10;
  c.vocab = 17;
  c.seq = 7;
  c.tied_head = tied;
  c.init_std = 0.3;  // large enough that every path of the gradient matters
  return c;
}

struct Tokens {
  std::vector<std::int32_t> tokens, targets;
  std::int64_t sequences;
  Llama::Batch batch() {
    const auto seq = static_cast<std::int64_t>(tokens.size()) / sequences;
    return {Tensor::of(tokens.data(), {sequences, seq}), Tensor::of(targets.data(), {sequences, seq})};
  }
};

Tokens random_tokens(const LlamaConfig& c, std::int64_t sequences, std::uint32_t seed, bool ignore_some = false) {
  std::mt19937 rng(seed);
  Tokens t;
  t.sequences = sequences;
  for (std::int64_t i = 0; i < sequences * c.seq; ++i) {
    t.tokens.push_back(static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab)));
    t.targets.push_back(static_cast<std::int32_t>(rng() % static_cast<std::uint32_t>(c.vocab)));
    if (ignore_some && rng() % 4 == 0) t.targets.back() = -1;
  }
  return t;
}

std::vector<float> copy_of(const Tensor& t) { return {t.data<float>(), t.data<float>() + t.numel()}; }

void expect_gradients_match(const LlamaConfig& c, bool ignore_some) {
  const Recipe f32 = unquantised_recipe(ElementFormat::F32);
  Llama model(c, f32, 5, DType::F32);
  std::mt19937 rng(7);
  std::uniform_real_distribution<float> uniform(-0.4f, 0.4f);
  for (const Parameter& p : model.parameters()) {  // gains and biases that are not where they start
    if (p.value.dims() > 1) continue;
    for (std::int64_t i = 0; i < p.value.numel(); ++i) p.value.data<float>()[i] += uniform(rng);
  }
  Tokens t = random_tokens(c, 2, 11, ignore_some);
  model.prepare(1, false);
  std::int64_t count = 0;
  for (std::int32_t target : t.targets) count += target >= 0;
  const BatchLoss loss = model.forward_backward(t.batch(), 1.0 / static_cast<double>(count), 1, 0, true, false);
  LlamaOracle oracle(model);
  EXPECT_EQ(loss.tokens, count);
  EXPECT_NEAR(loss.mean(), oracle.loss(t.tokens, t.targets, 2), 1e-5);

  expect_central_differences(model.flat_grads(), oracle, t.tokens, t.targets, 2);
}

TEST(Llama, GradientsEqualCentralDifferencesOfADoubleOracleWithUntiedHead) {
  expect_gradients_match(tiny(2, false), false);
}
TEST(Llama, GradientsEqualCentralDifferencesWithGroupedQueriesAndTiedHead) {
  expect_gradients_match(tiny(1, true), false);
}
TEST(Llama, GradientsEqualCentralDifferencesWithBiasesOfQueryKeyAndValue) {
  LlamaConfig c = tiny(1, true);
  c.qkv_bias = true;
  expect_gradients_match(c, false);
}
TEST(Llama, GradientsEqualCentralDifferencesWithQkNormAndWideHeads) {
  LlamaConfig c = tiny(1, false);
  c.qk_norm = true;
  c.own_head_dim = 8;
  expect_gradients_match(c, false);
}
TEST(Llama, GradientsEqualCentralDifferencesWithAllExtrasAndScaledRope) {
  LlamaConfig c = tiny(2, false);
  c.qkv_bias = c.qk_norm = true;
  c.own_head_dim = 4;
  c.rope_theta = 10;
  c.rope_scaling = {.kind = RopeScaling::Kind::Llama3, .factor = 8, .original_seq = 16};
  expect_gradients_match(c, false);
}
TEST(Llama, IgnoredTargetsGiveNoLossAndNoGradient) { expect_gradients_match(tiny(2, false), true); }

TEST(Llama, Bf16LossLiesCloseToTheDoubleOracle) {
  const LlamaConfig c = tiny(1, false);
  Llama model(c, unquantised_recipe(ElementFormat::BF16), 5);
  Tokens t = random_tokens(c, 3, 2);
  model.prepare(1, false);
  const BatchLoss loss = model.evaluate(t.batch());
  EXPECT_NEAR(loss.mean(), LlamaOracle(model).loss(t.tokens, t.targets, 3), 0.02);
}

class EveryRecipe : public testing::TestWithParam<const char*> {};

TEST_P(EveryRecipe, GradientsOfMicroBatchesAddUpToThoseOfTheWholeBatch) {
  const LlamaConfig c = tiny(2, false);
  const Recipe recipe = load_recipe(std::string(NIBBLE_SOURCE_DIR) + GetParam());
  Tokens all = random_tokens(c, 4, 3);
  Llama whole(c, recipe, 9);
  whole.prepare(1, false);
  const double scale = 1.0 / static_cast<double>(all.tokens.size());
  const BatchLoss loss = whole.forward_backward(all.batch(), scale, 1, 0, true, false);

  Llama parts(c, recipe, 9);
  parts.prepare(1, false);
  double sum = 0;
  for (std::int64_t s = 0; s < 4; s += 2) {
    const auto n = static_cast<std::ptrdiff_t>(2 * c.seq);
    const auto at = static_cast<std::ptrdiff_t>(s * c.seq);
    Tokens half{{all.tokens.begin() + at, all.tokens.begin() + at + n},
                {all.targets.begin() + at, all.targets.begin() + at + n},
                2};
    sum += parts.forward_backward(half.batch(), scale, 1, s * c.seq, s == 0, false, 4 * c.seq).sum;
  }
  const std::string name = recipe.name;
  const bool per_tensor = name == "wang2025-released";  // its scales span the micro-batch
  EXPECT_NEAR(sum, loss.sum, per_tensor ? 0.5 : 1e-3);
  const std::vector<float> a = copy_of(whole.flat_grads());
  const std::vector<float> b = copy_of(parts.flat_grads());
  double difference = 0;
  double norm = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]) * (a[i] - b[i]);
    norm += a[i] * a[i];
  }
  // wgrad's column scales of dY span the micro-batch, so its rounding differs: a little in FP8, more in FP4.
  EXPECT_LT(std::sqrt(difference / norm), name == "stochastic" ? 0.6 : per_tensor ? 0.3 : 0.05) << name;
  EXPECT_GT(norm, 0);
}

TEST_P(EveryRecipe, OneThreadAndThreeGiveTheSameBits) {
  const LlamaConfig c = tiny(1, false);
  const Recipe recipe = load_recipe(std::string(NIBBLE_SOURCE_DIR) + GetParam());
  Tokens t = random_tokens(c, 5, 8);
  std::vector<float> first;
  double first_loss = 0;
  const int threads_before = omp_get_max_threads();
  for (int threads : {1, 2, 3}) {
    omp_set_num_threads(threads);
    Llama model(c, recipe, 9);
    model.prepare(1, false);
    const BatchLoss loss = model.forward_backward(t.batch(), 0.01, 1, 0, true, false);
    const std::vector<float> grads = copy_of(model.flat_grads());
    if (threads == 1) {
      first = grads;
      first_loss = loss.sum;
    }
    EXPECT_EQ(loss.sum, first_loss) << threads << " threads";
    EXPECT_EQ(std::memcmp(grads.data(), first.data(), grads.size() * sizeof(float)), 0) << threads << " threads";
  }
  omp_set_num_threads(threads_before);
}

INSTANTIATE_TEST_SUITE_P(Recipes, EveryRecipe,
                         testing::Values("/recipes/bf16.toml", "/recipes/fp4-direct.toml", "/recipes/wang2025.toml",
                                         "/recipes/wang2025-released.toml", "/tests/recipe/stochastic.toml"));

TEST(Llama, ExemptLayersAreBitIdenticalToBf16) {
  const LlamaConfig c = tiny(2, false);
  Recipe recipe = load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/wang2025.toml");
  recipe.exempt = {"layers.*"};
  Tokens t = random_tokens(c, 2, 4);
  Llama exempt(c, recipe, 1);
  Llama bf16(c, unquantised_recipe(ElementFormat::BF16), 1);
  exempt.prepare(1, false);
  bf16.prepare(1, false);
  EXPECT_EQ(exempt.forward_backward(t.batch(), 1, 1, 0, true, false).sum,
            bf16.forward_backward(t.batch(), 1, 1, 0, true, false).sum);
  EXPECT_EQ(copy_of(exempt.flat_grads()), copy_of(bf16.flat_grads()));
}

TEST(Llama, MeasuringQualityChangesNoBit) {
  const LlamaConfig c = tiny(2, false);
  const Recipe recipe = load_recipe(std::string(NIBBLE_SOURCE_DIR) + "/recipes/wang2025.toml");
  Tokens t = random_tokens(c, 2, 4);
  std::vector<float> grads[2];
  for (int measure : {0, 1}) {
    Llama model(c, recipe, 1);
    model.prepare(1, measure != 0);
    model.forward_backward(t.batch(), 1, 1, 0, true, measure != 0);
    grads[measure] = copy_of(model.flat_grads());
    const double snr = model.linears()[0].quality()[0].snr_db();
    if (measure != 0) {
      EXPECT_GT(snr, 10);
      EXPECT_LT(snr, 40);
    }
  }
  EXPECT_EQ(grads[0], grads[1]);
}

TEST(Llama, NextTokenLogitsAgreeWithTheTrainingPass) {
  const LlamaConfig c = tiny(1, false);
  Llama model(c, unquantised_recipe(ElementFormat::F32), 5, DType::F32);
  Tokens t = random_tokens(c, 1, 6);
  model.prepare(1, false);
  std::vector<float> losses;
  model.evaluate(t.batch(), &losses);
  const std::vector<float> logits = model.next_token_logits(t.tokens);
  double sum = 0;
  for (float v : logits) sum += std::exp(static_cast<double>(v));
  const double expected = std::log(sum) - static_cast<double>(logits[static_cast<std::size_t>(t.targets.back())]);
  EXPECT_NEAR(losses.back(), expected, 1e-4);
}

TEST(Llama, AParameterThatIsNotFiniteIsNamed) {
  const LlamaConfig c = tiny(2, false);
  Llama model(c, unquantised_recipe(ElementFormat::BF16), 5);
  model.parameters()[2].value.data<float>()[3] = NAN;
  Tokens t = random_tokens(c, 1, 6);
  model.prepare(1, false);
  EXPECT_EQ(model.first_non_finite(t.batch()), "the parameter layers.0.attention.qkv (element 3)");
}

TEST(LlamaConfig, ParameterCountsEqualThePublishedQuartetSizes) {
  const std::pair<const char*, std::int64_t> sizes[] = {
      {"quartet-30m", 30482560}, {"quartet-50m", 49556736}, {"quartet-100m", 102777856}, {"quartet-200m", 203188480}};
  for (const auto& [name, parameters] : sizes) {
    const LlamaConfig c = load_llama_config(std::string(NIBBLE_SOURCE_DIR) + "/models/" + name + ".toml");
    EXPECT_EQ(c.non_embedding_parameters(), parameters) << name;
  }
}

TEST(LlamaConfig, TomlOfAModelGivesTheModel) {
  LlamaConfig c = tiny(1, true);
  c.own_head_dim = 8;
  c.qkv_bias = c.qk_norm = true;
  c.context = 77;
  c.rope_theta = 5e5;
  for (const RopeScaling& scaling : {RopeScaling{},
                                     {.kind = RopeScaling::Kind::Linear, .factor = 4},
                                     {RopeScaling::Kind::Llama3, 32, 1.5, 4.5, 8192}}) {
    c.rope_scaling = scaling;
    const LlamaConfig again = read_llama_config(ConfigTable::parse_text(to_toml(c), "m.toml").table("model"));
    EXPECT_EQ(to_toml(again), to_toml(c));
    EXPECT_EQ(again.rope_scaling, scaling);
    EXPECT_EQ(again.head_dim(), 8);
    EXPECT_TRUE(again.qkv_bias && again.qk_norm);
    EXPECT_EQ(again.context, 77);
  }
}

TEST(LlamaConfig, WrongShapesAreRefusedWithALine) {
  const auto refuse = [](const char* text) {
    try {
      const ConfigTable root = ConfigTable::parse_text(text, "m.toml");
      read_llama_config(root.table("model"));
    } catch (const UserError& e) {
      return std::string(e.what());
    }
    return std::string();
  };
  const std::string base = "[model]\nlayers = 1\nwidth = 10\nffn = 8\nvocab = 9\nseq = 4\n";
  EXPECT_EQ(refuse((base + "heads = 3\n").c_str()), "m.toml:7: key 'model.heads': 3 heads do not divide the width 10");
  EXPECT_NE(refuse((base + "heads = 2\n").c_str()).find("even"), std::string::npos);
  EXPECT_NE(refuse((base + "heads = 5\nkv_head = 5\n").c_str()).find("did you mean 'kv_heads'"), std::string::npos);
  EXPECT_NE(refuse((base + "heads = 2\nhead_dim = 7\n").c_str()).find("even"), std::string::npos);
  EXPECT_NE(refuse((base + "heads = 1\ncontext = 3\n").c_str()).find("more than the 3 positions"), std::string::npos);
  const std::string rope = base + "heads = 1\n[model.rope_scaling]\n";
  EXPECT_NE(refuse((rope + "kind = \"yarn\"\n").c_str()).find("'yarn' is not one of none, linear, llama3"),
            std::string::npos);
  EXPECT_NE(refuse((rope + "kind = \"llama3\"\n").c_str()).find("original_seq': is missing"), std::string::npos);
  EXPECT_NE(refuse((rope + "kind = \"llama3\"\noriginal_seq = 9\nlow_freq_factor = 4\n").c_str())
                .find("must be above low_freq_factor"),
            std::string::npos);
  EXPECT_NE(refuse("[model]\nlayers = 1\n").find("'model.width': is missing"), std::string::npos);
}

}  // namespace
}  // namespace nibble
