#include "nibble/report/html.h"

#include <gtest/gtest.h>

#include <cmath>

#include "nibble/tensor/error.h"
#include "tests/report/markup.h"
#include "tests/report/synthetic_runs.h"

namespace nibble {
namespace {

class Report : public testing::Test {
 protected:
  std::filesystem::path add(const SyntheticRun& run) {
    const std::filesystem::path path = directory_.path() / run.name;
    write_run(path, run);
    return path;
  }
  std::vector<std::filesystem::path> three_recipes() {
    std::vector<std::filesystem::path> paths;
    for (int seed : {1, 2}) {
      for (const auto& [recipe, factor] : {std::pair{"bf16", 1.0}, {"fp4-direct", 1.03}, {"wang2025", 1.01}}) {
        SyntheticRun run{.name = recipe + std::string("-s") + std::to_string(seed), .recipe = recipe, .seed = seed};
        const double scale = factor + 0.001 * seed;
        run.loss = run.validation = [scale](int step) { return scale * (3 + 5.0 / step); };
        paths.push_back(add(run));
      }
    }
    return paths;
  }
  std::string page(const std::vector<std::filesystem::path>& directories) {
    const std::filesystem::path out = directory_.path() / "report.html";
    write_report(directories, out);
    return read_text(out);
  }
  TemporaryDirectory directory_;
};

bool contains(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

/// Checks what every page must satisfy and returns its elements.
std::vector<Element> check(const std::string& page) {
  std::vector<Element> elements;
  EXPECT_NO_THROW(elements = parse_markup(page));
  std::set<std::string> ids;
  for (const Element& element : elements) {
    for (const auto& [name, value] : element.attributes) {
      EXPECT_FALSE(name == "src" || name == "href" || name == "srcset" || name.starts_with("on"))
          << element.name << " " << name;
      EXPECT_FALSE(contains(value, "url(") || contains(value, "://")) << value;
      if (name == "id") {
        EXPECT_TRUE(ids.insert(value).second) << "id twice: " << value;
      }
    }
    EXPECT_FALSE(element.name == "link" || element.name == "img" || element.name == "iframe") << element.name;
    if (element.name == "style" || element.name == "script") {
      for (const char* network : {"http", "@import", "url(", "fetch(", "XMLHttpRequest", "import(", "WebSocket"}) {
        EXPECT_FALSE(contains(element.text, network)) << element.name << " uses " << network;
      }
    }
  }
  EXPECT_FALSE(contains(page, "nan")) << page.substr(page.find("nan") - 80, 120);
  EXPECT_FALSE(contains(page, "http://") || contains(page, "https://"));
  return elements;
}

TEST_F(Report, IsWellFormedAndRefersToNothingOutside) {
  const std::string text = page(three_recipes());
  const std::vector<Element> elements = check(text);
  EXPECT_TRUE(contains(text, "default-src 'none'"));
  std::set<std::string> sections;
  for (const Element& element : elements) {
    if (element.name == "section") sections.insert(element.attributes.at("id"));
  }
  EXPECT_EQ(sections, (std::set<std::string>{"results", "loss", "gap", "quality", "speed", "optimization", "settings",
                                             "reproduce"}));
}

TEST_F(Report, StatesTheFindingInItsHeadline) {
  for (const Element& element : check(page(three_recipes()))) {
    if (element.name == "h1") {
      EXPECT_EQ(
          element.text,
          "Against bf16, validation loss is 1.00\u00a0% higher with wang2025 and 3.00\u00a0% higher with fp4-direct.");
      return;
    }
  }
  FAIL() << "no headline";
}

TEST_F(Report, DrawsEveryDrawingWithAnAccessibleName) {
  int drawings = 0;
  for (const Element& element : check(page(three_recipes()))) {
    if (element.name != "svg" || !has_class(element, "plot")) continue;
    ++drawings;
    EXPECT_EQ(element.attributes.at("role"), "img");
    EXPECT_FALSE(element.attributes.at("aria-label").empty());
  }
  EXPECT_GE(drawings, 10);
}

TEST_F(Report, HasTheSameBytesForTheSameRuns) {
  const auto runs = three_recipes();
  EXPECT_EQ(page(runs), page(runs));
}

TEST_F(Report, WorksForOneRunWithoutABaseline) {
  const std::string text = page({add({.name = "fp4-s1", .recipe = "fp4"})});
  check(text);
  EXPECT_TRUE(contains(text, "fp4 reaches a validation loss of"));
  EXPECT_FALSE(contains(text, "<section id=\"gap\">"));
}

TEST_F(Report, WorksForARunThatHasOnlyJustStarted) {
  check(page({add({.name = "fp4-s1", .recipe = "fp4", .steps = 0})}));
  check(page({add({.name = "fp4-s1", .recipe = "fp4", .steps = 1})}));
}

TEST_F(Report, WorksWithoutValidationAndQuality) {
  const std::string text = page({add({.name = "bf16-s1", .recipe = "bf16", .validate_every = 0, .quality = false}),
                                 add({.name = "fp4-s1", .recipe = "fp4", .validate_every = 0, .quality = false})});
  check(text);
  EXPECT_TRUE(contains(text, "<section id=\"gap\">"));
  EXPECT_FALSE(contains(text, "<section id=\"quality\">"));
}

TEST_F(Report, WorksForADivergedRunAndOtherLengths) {
  SyntheticRun bad{.name = "fp4-s1", .recipe = "fp4", .steps = 55};
  bad.loss = [](int step) { return step < 55 ? 4.0 : NAN; };
  const std::string text = page({add({.name = "bf16-s1", .recipe = "bf16"}), add(bad)});
  check(text);
  EXPECT_TRUE(contains(text, "fp4 diverged"));
  EXPECT_TRUE(contains(text, "Settings that differ"));
}

TEST_F(Report, MarksStagesAndListsAlarms) {
  std::vector<std::string> alarms;
  for (int i = 1; i <= 10; ++i) alarms.push_back(fmt::format("alarm <{}>", i));
  const std::string text = page({add({.name = "bf16-s1", .recipe = "bf16"}),
                                 add({.name = "fp4-s1", .recipe = "fp4", .second_stage_from = 60, .alarms = alarms})});
  int marks = 0;
  std::string listed;
  for (const Element& element : check(text)) {
    if (element.name == "text" && element.text == "stage 2") ++marks;
    if (element.name == "td" && element.text.starts_with("alarm")) listed += element.text + ";";
  }
  EXPECT_GE(marks, 4) << "in the charts over steps, at both widths";
  EXPECT_TRUE(contains(listed, "alarm &lt;1&gt;;") && contains(listed, "alarm &lt;10&gt;;")) << listed;
  EXPECT_TRUE(contains(text, "<span>10 alarms</span>"));
  EXPECT_FALSE(contains(page({add({.name = "quiet", .recipe = "bf16"})}), "id=\"alarms\""));
}

TEST_F(Report, DrawsGradientOverNoiseWithItsBound) {
  int levels = 0;
  int curves = 0;
  for (const Element& element : check(page({add({.name = "fp4-s1", .recipe = "fp4"})}))) {
    if (element.name == "text" && contains(element.text, "√3")) ++levels;
    const auto name = element.attributes.find("aria-label");
    if (name != element.attributes.end() && contains(name->second, "Gradient over quantization noise")) ++curves;
  }
  EXPECT_EQ(curves, 2) << "for wide and for narrow screens";
  EXPECT_EQ(levels, 2);
}

TEST_F(Report, GivesTheMapsScriptEveryFigureOfEveryCell) {
  std::string data;
  int choices = 0;
  for (const Element& element : check(page({add({.name = "fp4-s1", .recipe = "fp4"})}))) {
    if (element.name == "script" && element.attributes.contains("type")) data = element.text;
    if (element.attributes.contains("data-choice")) ++choices;
  }
  const nlohmann::json json = nlohmann::json::parse(data);
  EXPECT_EQ(json["rows"], (nlohmann::json{"layers.0.attention.qkv", "layers.0.mlp.down"}));
  EXPECT_EQ(json["steps"], (nlohmann::json{50, 100}));
  const std::string digits = json["digits"];
  EXPECT_EQ(json["figures"].size(), 5u);
  EXPECT_EQ(choices, 5);
  for (const auto& [key, figure] : json["figures"].items()) {
    const std::string values = figure["values"];
    EXPECT_EQ(figure["panels"].size(), key == "cosine" ? 3u : 6u);
    EXPECT_EQ(values.size(), 2 * figure["panels"].size() * 2 * 2) << key;
    for (char c : values) EXPECT_NE(digits.find(c), std::string::npos) << c;
  }
  const std::string snr = json["figures"]["snr"]["values"];
  EXPECT_EQ(snr.substr(0, 2), "02") << "18.5 dB is the only finite value, so the lowest";
  EXPECT_EQ(snr.substr(8, 2), "01") << "fprop.w is exact";
  EXPECT_EQ(snr.substr(16, 2), "00") << "dgrad.dy was not logged";
}

TEST_F(Report, EscapesWhatUsersWrite) {
  const std::filesystem::path run = add({.name = "a", .recipe = "x"});
  nlohmann::json info = nlohmann::json::parse(read_text(run / "run.json"));
  const std::string evil = "</style></script><script>alert(1)</script><img src=x onerror=\"alert(1)\">&'";
  for (const char* key : {"name", "recipe", "recipe_text", "started", "command"}) info[key] = evil;
  info["model"][evil] = evil;
  info["paths"][evil] = evil;
  info["nibble"]["version"] = evil;
  info["recipe_table"] = {{{"operand", evil}, {"spec", evil}}};
  write_text(run / "run.json", info.dump());
  write_text(run / "metrics.jsonl", nlohmann::json{{"step", 1},
                                                   {"loss", 1.0},
                                                   {"layers", {{evil, {{"fprop.x", operand_json(12.0)}}}}},
                                                   {"quality", {{"fprop.x", operand_json(12.0)}}}}
                                            .dump() +
                                        "\n");
  const std::string text = page({run});
  check(text);
  EXPECT_FALSE(contains(text, "alert(1)</script>"));
  EXPECT_FALSE(contains(text, "<img"));
}

TEST_F(Report, TellsHowToReproduceAComparison) {
  three_recipes();
  nlohmann::json compare = {
      {"baseline", "bf16"}, {"noise_percent", 0.1}, {"seeds", {1, 2}}, {"config_text", "[model]\ndim = 64\n"}};
  for (const char* name : {"bf16-s1", "bf16-s2", "wang2025-s1"}) {
    compare["runs"].push_back({{"name", name},
                               {"dir", name},
                               {"recipe", std::string(name).substr(0, std::string(name).find('-'))},
                               {"seed", name[std::string(name).size() - 1] - '0'},
                               {"val_loss", 3.0}});
  }
  write_text(directory_.path() / "compare.json", compare.dump());
  const std::string text = page({directory_.path()});
  check(text);
  EXPECT_TRUE(contains(text, "nibble compare --config compare.toml --recipes bf16,wang2025 --seeds 2 --out runs/"));
  EXPECT_TRUE(contains(text, "[model]\ndim = 64\n"));
  EXPECT_TRUE(contains(text, "nibble report " + directory_.path().string()));
}

TEST_F(Report, StaysSmallForLongRuns) {
  SyntheticRun run{.name = "bf16-s1", .recipe = "bf16", .steps = 20000, .validate_every = 100};
  EXPECT_LT(page({add(run)}).size(), 500000u);
}

TEST_F(Report, StaysSmallForManyLayers) {
  const std::filesystem::path run = add({.name = "fp4-s1", .recipe = "fp4", .steps = 1});
  std::string lines;
  for (int step = 1; step <= 200; ++step) {
    nlohmann::json line = {{"step", step}, {"loss", 3.0}};
    for (int layer = 0; layer < 320; ++layer) {
      nlohmann::json operands = nlohmann::json::object();
      for (const char* operand : kOperandNames) operands[operand] = operand_json((layer * 7919 + step * 31) % 97 / 3.0);
      line["layers"][fmt::format("layers.{}", layer)] = operands;
    }
    line["quality"] = line["layers"]["layers.0"];
    lines += line.dump() + "\n";
  }
  write_text(run / "metrics.jsonl", lines);
  const std::string text = page({run});
  check(text);
  EXPECT_LT(text.size(), 1500000u);
}

TEST_F(Report, LeavesAnExistingPageAloneWhenTheRunsCannotBeRead) {
  const std::filesystem::path out = directory_.path() / "report.html";
  write_text(out, "old");
  EXPECT_THROW(write_report({directory_.path() / "absent"}, out), UserError);
  EXPECT_EQ(read_text(out), "old");
}

}  // namespace
}  // namespace nibble
