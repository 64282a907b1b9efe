#include "nibble/inspect/inspection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "nibble/inspect/page.h"
#include "nibble/inspect/text.h"
#include "nibble/model/hugging_face.h"
#include "tests/data/english.h"
#include "tests/inspect/small_checkpoint.h"
#include "tests/tensor_testing.h"

namespace nibble {
namespace {

using testing_support::doubles;
using testing_support::ThreadCount;

constexpr std::int64_t kVocab = 96;

std::size_t at(Operand operand) { return static_cast<std::size_t>(operand); }

/// A checkpoint that all tests of this file read.
class InspectionTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    folder_ = std::make_unique<TemporaryDirectory>();
    config_ = inspected_config(folder_->path() / "data", kVocab);
    checkpoint_ = write_checkpoint(folder_->path() / "run", config_);
  }
  static void TearDownTestSuite() { folder_.reset(); }

  static Inspection inspect(const std::vector<std::string>& recipes) {
    std::vector<Recipe> read;
    for (const std::string& name : recipes) read.push_back(recipe_for_test(name));
    return inspect_model(StoredModel::open(checkpoint_), read, random_ids(config_.model, 2));
  }

  static inline std::unique_ptr<TemporaryDirectory> folder_;
  static inline TrainConfig config_;
  static inline std::filesystem::path checkpoint_;
};

TEST_F(InspectionTest, FiguresOfALayerAreThoseOfMeasuringItByHand) {
  const Inspection inspection = inspect({"fp4-direct"});
  const Recipe recipe = recipe_for_test("fp4-direct");
  const std::vector<std::int32_t> ids = random_ids(config_.model, 2);

  // The first layer's operands are those of any recipe.
  Llama model(config_.model, recipe, config_.seed);
  load_weights(checkpoint_, model);
  OwnedTensor x;
  OwnedTensor w;
  OwnedTensor dy;
  model.set_observer([&](const Linear& linear, Operand operand, const Tensor& source) {
    if (&linear != model.linears().data()) return;
    OwnedTensor& copy = operand == Operand::FpropX ? x : operand == Operand::FpropW ? w : dy;
    copy = OwnedTensor(source.dtype(), {source.rows(), source.cols()});
    convert(source, copy);
  });
  const OwnedTensor tokens(DType::I32, {2, 64});
  std::copy(ids.begin(), ids.end() - 1, tokens.view().data<std::int32_t>());
  const OwnedTensor targets(DType::I32, {2, 64});
  std::copy(ids.begin() + 1, ids.end(), targets.view().data<std::int32_t>());
  model.prepare(7, false);
  const BatchLoss loss = model.forward_backward({tokens, targets}, 1.0 / 128, 7, 0, true, false);
  EXPECT_EQ(inspection.recipes[0].loss, loss.mean());

  const LayerTelemetry& layer = inspection.recipes[0].telemetry.layers[0];
  Arena arena;
  std::array<std::vector<double>, 2> rounded;
  for (const auto& [operand, source, out] :
       {std::tuple{Operand::FpropX, x.view(), 0}, std::tuple{Operand::FpropW, w.view(), 1}}) {
    const QuantSpec& spec = recipe.base()[operand].quant;
    const QTensor q = quantize(source, spec, {}, arena);
    const QuantQuality expected = measure_quality(source, q, spec, {}, arena);
    const QuantQuality& measured = layer.operands[at(operand)];
    EXPECT_EQ(measured.signal, expected.signal);
    EXPECT_EQ(measured.noise, expected.noise);
    EXPECT_EQ(measured.underflow, expected.underflow);
    EXPECT_EQ(measured.clipped, expected.clipped);
    EXPECT_GT(expected.noise, 0);
    const OwnedTensor values(DType::F32, {q.rows, q.cols});
    dequantize(q, values);
    rounded[static_cast<std::size_t>(out)] = doubles(values);
  }
  // The product of the first 16 tokens, in double.
  const std::vector<double> exact_x = doubles(x);
  const std::vector<double> exact_w = doubles(w);
  double exact = 0;
  double noise = 0;
  const std::int64_t k = x.view().cols();
  for (std::int64_t t = 0; t < kMeasuredTokens; ++t) {
    for (std::int64_t n = 0; n < w.view().rows(); ++n) {
      double p = 0;
      double q = 0;
      for (std::int64_t c = 0; c < k; ++c) {
        const auto i = static_cast<std::size_t>(t * k + c);
        const auto j = static_cast<std::size_t>(n * k + c);
        p += exact_x[i] * exact_w[j];
        q += rounded[0][i] * rounded[1][j];
      }
      exact += p * p;
      noise += (q - p) * (q - p);
    }
  }
  const double by_hand = std::sqrt(noise / exact);
  EXPECT_NEAR(relative_error(layer.products[0]), by_hand, 0.01 * by_hand);

  // The scales of W are folded into dY.
  const QTensor quantised_w = quantize(w, recipe.base()[Operand::FpropW].quant, {}, arena);
  QuantizeContext fold;
  fold.col_fold = quantised_w.scales.reshape({quantised_w.rows});
  const QuantSpec& of_dy = recipe.base()[Operand::DgradDy].quant;
  const Histogram& histogram = inspection.recipes[0].histograms[0][2];
  EXPECT_EQ(histogram.counts, scaled_histogram(dy, of_dy, fold, arena).counts);
  EXPECT_NE(histogram.counts, scaled_histogram(dy, of_dy, {}, arena).counts);

  const TensorFigures figures = tensor_figures(x);
  EXPECT_EQ(inspection.layers[0].tensors[0].kurtosis, figures.kurtosis);
  EXPECT_EQ(inspection.layers[0].tensors[1].amax, tensor_figures(w).amax);
}

TEST_F(InspectionTest, ABf16RecipeIsExact) {
  const Inspection inspection = inspect({"bf16"});
  const RecipeInspection& recipe = inspection.recipes[0];
  EXPECT_FALSE(worst_layer(recipe));
  EXPECT_EQ(recipe.loss, inspection.loss);
  for (std::size_t i = 0; i < inspection.layers.size(); ++i) {
    for (std::size_t o = 0; o < 6; ++o) EXPECT_EQ(snr_text(recipe, i, o), "exact");
    EXPECT_EQ(errors_text(recipe.telemetry.layers[i]), "exact / exact / exact");
  }
  EXPECT_NE(inspection_text(inspection).find("bf16 hurts no layer"), std::string::npos);
  const nlohmann::json json = nlohmann::json::parse(inspection_json(inspection));
  EXPECT_TRUE(json["recipes"][0]["worst"].is_null());
  EXPECT_EQ(json["recipes"][0]["layers"][0]["operands"]["fprop.w"],
            (nlohmann::json{{"quantised", false}, {"reused", false}}));
}

TEST_F(InspectionTest, JsonHasEveryKeyOfThePageThatDescribesIt) {
  const Inspection inspection = inspect({"fp4-direct", "bf16"});
  const nlohmann::json json = nlohmann::json::parse(inspection_json(inspection));
  const std::string page = read_file(std::string(NIBBLE_SOURCE_DIR) + "/docs/inspect.md");
  int keys = 0;
  const std::function<void(const nlohmann::json&)> visit = [&](const nlohmann::json& value) {
    if (value.is_array() && !value.empty()) visit(value[0]);
    if (!value.is_object()) return;
    for (const auto& [key, inner] : value.items()) {
      EXPECT_NE(page.find("`" + key + "`"), std::string::npos) << key;
      ++keys;
      visit(inner);
    }
  };
  visit(json);
  EXPECT_GT(keys, 80);
  EXPECT_EQ(json["step"], 7);
  EXPECT_EQ(json["sequences"], 2);
  EXPECT_EQ(json["layers"].size(), 8u);
  const auto& layer = json["recipes"][0]["layers"][3];
  EXPECT_EQ(layer["layer"], "layers.0.mlp.down");
  EXPECT_TRUE(layer["operands"]["dgrad.w"]["reused"].get<bool>());
  EXPECT_EQ(layer["operands"]["dgrad.w"]["snr_db"], layer["operands"]["fprop.w"]["snr_db"]);
  EXPECT_EQ(layer["histograms"]["x"]["count"], 128 * 256);
  EXPECT_EQ(layer["histograms"]["dy"]["element"], "e4m3");
}

TEST_F(InspectionTest, HistogramsCountWhatTheLayerRounds) {
  // Roundings to nearest: what becomes zero lies within a quarter of a scale. Signs, folds or blocks of another pass
  // would give other counts.
  int compared = 0;
  for (const char* name : {"fp4-direct", "wang2025", "quartet", "quartet-rtn", "mxfp4-backward", "nvfp4", "quartet2"}) {
    const Recipe recipe = recipe_for_test(name);
    const RecipeInspection inspected = inspect({name}).recipes[0];
    for (std::size_t i = 0; i < inspected.histograms.size(); ++i) {
      for (std::size_t t = 0; t < 3; ++t) {
        const Histogram& h = inspected.histograms[i][t];
        const QuantQuality& q = inspected.telemetry.layers[i].operands[at(kPicturedOperands[t])];
        SCOPED_TRACE(fmt::format("{} layer {} {}", name, i, operand_name(kPicturedOperands[t])));
        EXPECT_EQ(h.count, q.count);
        const Rounding rounding = recipe.base()[kPicturedOperands[t]].quant.rounding;
        if (h.element != ElementFormat::E2M1 || rounding == Rounding::Stochastic || rounding == Rounding::Stochastic8) {
          continue;
        }
        const std::int64_t near_zero = std::accumulate(h.counts.begin() + 62, h.counts.begin() + 66, std::int64_t{0});
        EXPECT_NEAR(static_cast<double>(near_zero), static_cast<double>(q.underflow),
                    2 + 1e-3 * static_cast<double>(h.count));
        ++compared;
      }
    }
  }
  EXPECT_GE(compared, 7 * 8 * 2);
}

TEST_F(InspectionTest, TheWorstLayerHasTheLargestErrorAndIsNamed) {
  const Inspection inspection = inspect({"nvfp4", "wang2025"});
  for (const RecipeInspection& recipe : inspection.recipes) {
    double largest = 0;
    std::string layer;
    for (const LayerTelemetry& l : recipe.telemetry.layers) {
      for (std::size_t p = 0; p < 3; ++p) {
        if (p == 2 && l.estimated_gradient) continue;
        const double error = std::sqrt(l.products[p].noise / std::max(l.products[p].exact, 1e-300));
        if (error > largest) {
          largest = error;
          layer = l.layer;
        }
      }
    }
    const auto worst = worst_layer(recipe);
    ASSERT_TRUE(worst);
    EXPECT_DOUBLE_EQ(worst->error, largest);
    EXPECT_NE(inspection_text(inspection).find(recipe.recipe + " hurts " + layer + " most"), std::string::npos);
  }
  // wang2025 passes its weight gradient through an estimator.
  EXPECT_TRUE(errors_text(inspection.recipes[1].telemetry.layers[0]).ends_with("*"));
  EXPECT_FALSE(errors_text(inspection.recipes[0].telemetry.layers[0]).ends_with("*"));
}

TEST_F(InspectionTest, AChannelThatTheNormScalesByAHundredIsTheTopOutlier) {
  const auto checkpoint = write_checkpoint(folder_->path() / "outlier", config_, [](Llama& model) {
    for (Parameter& p : model.parameters()) {
      if (p.name == "layers.1.ffn_norm") p.value.data<float>()[37] *= 100;
    }
  });
  const Inspection inspection =
      inspect_model(StoredModel::open(checkpoint), {recipe_for_test("bf16")}, random_ids(config_.model, 1));
  const LayerSource& layer = inspection.layers[6];
  ASSERT_EQ(layer.layer, "layers.1.mlp.gate_up");
  EXPECT_EQ(layer.channels.top[0].channel, 37);
  EXPECT_NEAR(layer.channels.top[0].over_median, 100, 40);
  EXPECT_GT(layer.channels.top_energy, 0.9);
  EXPECT_GT(layer.tensors[0].kurtosis, 50);
  EXPECT_LT(inspection.layers[4].channels.top[0].over_median, 4);
  EXPECT_NE(inspection_text(inspection).find(channels_text(layer.channels)), std::string::npos);
}

TEST_F(InspectionTest, IsTheSameForAnyNumberOfThreads) {
  std::vector<std::string> pages;
  for (const int threads : {1, 3}) {
    const ThreadCount scope(threads);
    const Inspection inspection = inspect({"quartet", "nvfp4"});
    pages.push_back(inspection_json(inspection) + inspection_page(inspection) + inspection_text(inspection));
  }
  EXPECT_TRUE(pages[0] == pages[1]);
}

TEST_F(InspectionTest, ThePageHasAMapForEachRecipeAndThreeHistogramsForEachLayer) {
  const Inspection inspection = inspect({"fp4-direct", "nvfp4"});
  const std::string page = inspection_page(inspection);
  const auto count = [&](const std::string& part) {
    int n = 0;
    for (std::size_t place = 0; (place = page.find(part, place)) != std::string::npos; ++place) ++n;
    return n;
  };
  EXPECT_EQ(count("class=\"plot heat\""), 2);
  EXPECT_EQ(count("class=\"plot histogram\""), 2 * 8 * 3);
  EXPECT_EQ(count("http://") + count("https://") + count("src=") + count("nan"), 0);
  EXPECT_EQ(count("<figure"), count("</figure>"));
  EXPECT_EQ(count("<svg"), count("</svg>"));

  write_inspection(inspection, folder_->path() / "deep" / "out");
  EXPECT_EQ(read_file(folder_->path() / "deep" / "out" / "inspect.html"), page);
  EXPECT_EQ(read_file(folder_->path() / "deep" / "out" / "inspect.json"), inspection_json(inspection));
}

TEST_F(InspectionTest, ARecipeThatDoesNotFitTheModelIsRefused) {
  const Recipe recipe = recipe_for_test("quartet");
  TrainConfig odd = config_;
  odd.model.ffn = 40;
  const auto checkpoint = write_checkpoint(folder_->path() / "odd", odd);
  EXPECT_USER_ERROR(inspect_model(StoredModel::open(checkpoint), {recipe}, random_ids(odd.model, 1)),
                    "does not divide rows of 40");
}

TEST_F(InspectionTest, TakesAModelThatNibbleDidNotTrain) {
  export_hugging_face(config_.model, SafetensorsFolder(checkpoint_), {}, folder_->path() / "hf");
  const StoredModel foreign = StoredModel::open(folder_->path() / "hf");
  const std::vector<Recipe> recipes = {recipe_for_test("fp4-direct")};  // which draws no random numbers
  const Inspection here = inspect_model(StoredModel::open(checkpoint_), recipes, random_ids(config_.model, 2));
  const Inspection there = inspect_model(foreign, recipes, random_ids(config_.model, 2));
  EXPECT_EQ(there.step, 0);
  EXPECT_EQ(there.model, "hf");
  EXPECT_EQ(there.loss, here.loss);
  EXPECT_EQ(there.recipes[0].loss, here.recipes[0].loss);
}

TEST(InspectionTokens, AreTheDocumentsIdsAsTrainingSeesThem) {
  const TemporaryDirectory folder;
  const Tokenizer& tokenizer = small_tokenizer();
  const TrainConfig config = inspected_config("data", tokenizer.vocab_size());
  const std::vector<std::string> documents = english_documents(6);
  const std::string text = folder.write("text.txt", joined(documents));
  std::vector<std::int32_t> expected;
  for (const std::string& document : documents) tokenizer.encode_document(document, expected);
  ASSERT_GT(expected.size(), 129u);
  expected.resize(129);
  EXPECT_EQ(inspection_tokens(text, tokenizer, config.model, 2), expected);
  EXPECT_USER_ERROR(inspection_tokens(text, tokenizer, config.model, 1000), "is too short");
}

}  // namespace
}  // namespace nibble
