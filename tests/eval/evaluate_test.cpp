// Whole evaluations on a tiny random model: against brute force, stopped and resumed.
#include "nibble/eval/evaluate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "nibble/eval/results.h"
#include "tests/data/english.h"

namespace nibble {
namespace {

const std::atomic<bool> kGoOn{false};

LlamaConfig tiny_config() {
  LlamaConfig c;
  c.layers = 2;
  c.width = 32;
  c.heads = 2;
  c.kv_heads = 1;
  c.ffn = 48;
  c.vocab = small_tokenizer().vocab_size();
  c.seq = 24;
  c.init_std = 0.3;
  return c;
}

class Evaluation : public testing::Test {
 protected:
  Evaluation() : model_(tiny_config(), unquantised_recipe(ElementFormat::F32), 3, DType::F32), likelihood_(model_) {
    model_.prepare(0, false);
  }

  EvalTask choices() {
    const Task task = parse_task(
        "context = \"{{q}}\"\nchoices = [\"{{c}}\"]\ngold = \"{{a}}\"\nmetrics = [\"acc\", \"acc_norm\", "
        "\"acc_bytes\"]\n",
        "choices", "choices.toml");
    std::string rows;
    for (int i = 0; i < 30; ++i) {
      rows += nlohmann::json({{"q", english_documents(30)[static_cast<std::size_t>(i)].substr(0, 20 + 3 * i)},
                              {"c", {"a hole", "the sea and the ship", "e"}},
                              {"a", i % 3}})
                  .dump() +
              "\n";
    }
    return {task, read_items(task, folder_.write("choices.jsonl", rows), 0)};
  }
  EvalTask text() {
    return {text_task("text"),
            read_text_items(text_task("text"), {folder_.write("t.txt", joined(english_documents(3)))}, 0)};
  }
  std::vector<TaskResult> evaluate(EvalTask task, const EvalOptions& options, LogLikelihood& model,
                                   const std::atomic<bool>& stop = kGoOn) {
    std::vector<EvalTask> tasks;
    tasks.push_back(std::move(task));
    return evaluate_tasks(std::move(tasks), encoder_, model, options, stop);
  }
  /// log p of the targets, one prefix at a time.
  double brute_force(const Request& request) {
    std::vector<std::int32_t> ids = request.input;
    double sum = 0;
    for (std::size_t i = request.targets.size(); i-- > 0;) {
      const std::vector<float> logits = model_.next_token_logits(ids);
      double exponentials = 0;
      for (const float logit : logits) exponentials += std::exp(static_cast<double>(logit));
      sum += static_cast<double>(logits[static_cast<std::size_t>(request.targets[i])]) - std::log(exponentials);
      ids.pop_back();
    }
    return sum;
  }

  TemporaryDirectory folder_;
  Llama model_;
  LlamaLikelihood likelihood_;
  RequestEncoder encoder_{small_tokenizer(), {.prefix = 2, .add_bos = false, .max_length = 24}};
};

/// Scores as another does, and lets a stop be asked for after some passes.
class Stopping final : public LogLikelihood {
 public:
  Stopping(LogLikelihood& model, int passes) : model_(model), left_(passes) {}
  std::vector<Score> score(std::span<const Request> requests, bool greedy) override {
    ++passes;
    if (--left_ == 0) stop = true;
    return model_.score(requests, greedy);
  }
  std::atomic<bool> stop{false};
  int passes = 0;

 private:
  LogLikelihood& model_;
  int left_;
};

TEST_F(Evaluation, ChoicesEqualBruteForce) {
  EvalTask task = choices();
  const Items items = task.items;
  const std::vector<TaskResult> results = evaluate(std::move(task), {.batch = 100}, likelihood_);
  double right = 0;
  for (std::size_t i = 0; i < items.items.size(); ++i) {
    std::vector<double> expected;
    for (const Item::Pair& pair : items.items[i].pairs) {
      expected.push_back(brute_force(encoder_.pair(pair.context, pair.continuation)));
    }
    for (std::size_t p = 0; p < expected.size(); ++p) {
      EXPECT_NEAR(results[0].scores[i][p].log_likelihood, expected[p], 1e-4) << "item " << i;
    }
    right += std::max_element(expected.begin(), expected.end()) - expected.begin() == items.items[i].gold;
  }
  EXPECT_DOUBLE_EQ(results[0].figures[0].value, right / 30);
}

TEST_F(Evaluation, PerplexityOfATextSumsOverItsWindows) {
  EvalTask task = text();
  const Items items = task.items;
  const std::vector<TaskResult> results = evaluate(std::move(task), {.batch = 100}, likelihood_);
  double sum = 0;
  double bytes = 0;
  for (const Item& item : items.items) {
    for (const Request& window : encoder_.rolling(item.pairs[0].continuation)) sum += brute_force(window);
    bytes += static_cast<double>(item.pairs[0].continuation.size());
  }
  EXPECT_NEAR(results[0].figures[2].value, -sum / bytes / std::log(2.0), 1e-5);
}

TEST_F(Evaluation, AStoppedRunGoesOnWithTheSameBits) {
  const std::vector<TaskResult> whole = evaluate(choices(), {.batch = 80}, likelihood_);
  const EvalOptions options{.batch = 80, .out = folder_ / "out", .identity = "model"};
  Stopping first(likelihood_, 3);
  EXPECT_TRUE(evaluate(choices(), options, first, first.stop).empty());
  EXPECT_EQ(first.passes, 3);
  // A kill in the middle of a line.
  std::ofstream(folder_ / "out" / "scores_choices.jsonl", std::ios::app) << "{\"pass\":3,\"sco";
  Stopping second(likelihood_, 1000);
  const std::vector<TaskResult> resumed = evaluate(choices(), options, second);
  ASSERT_EQ(resumed.size(), 1u);
  EXPECT_EQ(resumed[0].scores, whole[0].scores);
  Stopping third(likelihood_, 1000);
  EXPECT_EQ(evaluate(choices(), options, third)[0].scores, whole[0].scores);
  EXPECT_EQ(third.passes, 0);
  EXPECT_GT(second.passes, 3);
}

TEST_F(Evaluation, ALogOfSomethingElseIsRefused) {
  EvalOptions options{.batch = 80, .out = folder_ / "out", .identity = "model"};
  evaluate(choices(), options, likelihood_);
  options.identity = "another";
  EXPECT_USER_ERROR(evaluate(choices(), options, likelihood_), "holds scores of something else");
  folder_.write("out/scores_text.jsonl", "[]\n");
  EXPECT_USER_ERROR(evaluate(text(), options, likelihood_), "is no line of a log of scores");
}

TEST_F(Evaluation, WhatCannotBeScoredNamesTaskAndRow) {
  EvalTask task = choices();
  task.items.items[4].pairs[1].continuation = std::string(400, 'x');
  EXPECT_USER_ERROR(evaluate(std::move(task), {}, likelihood_), "task 'choices', row 5: its continuation has");
  class Broken final : public LogLikelihood {
    std::vector<Score> score(std::span<const Request> requests, bool) override {
      return std::vector<Score>(requests.size(), Score{std::nan(""), false});
    }
  } broken;
  EXPECT_USER_ERROR(evaluate(choices(), {}, broken), "the log-likelihood is nan");
}

TEST(PlanPasses, ItemsStayTogetherTheLongestFirst) {
  const std::vector<Request> requests = {{{1, 2}, {9}}, {{1, 2, 3, 4}, {9}}, {{5, 6, 7}, {9}}, {{1, 2, 3}, {9}}};
  const std::vector<std::size_t> groups = {0, 1, 2, 1};
  EXPECT_EQ(plan_passes(requests, groups, 100), (std::vector<std::vector<std::size_t>>{{1, 3, 2, 0}}));
  EXPECT_EQ(plan_passes(requests, groups, 5), (std::vector<std::vector<std::size_t>>{{1, 3}, {2, 0}}));
  EXPECT_EQ(plan_passes(requests, groups, 1), (std::vector<std::vector<std::size_t>>{{1, 3}, {2}, {0}}));
}

TEST_F(Evaluation, ResultsHaveTheHarnesssLayout) {
  const std::vector<TaskResult> results = evaluate(choices(), {}, likelihood_);
  const nlohmann::json json = results_json(results, {{"model", "nibble"}});
  for (const char* key :
       {"results", "group_subtasks", "configs", "versions", "n-shot", "higher_is_better", "n-samples", "config"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
  EXPECT_EQ(json["results"]["choices"]["acc,none"], results[0].figures[0].value);
  EXPECT_EQ(json["results"]["choices"]["acc_stderr,none"], results[0].figures[0].standard_error);
  EXPECT_EQ(json["n-samples"]["choices"]["effective"], 30);
  EXPECT_EQ(json["configs"]["choices"]["output_type"], "multiple_choice");
  std::istringstream lines(samples_jsonl(results[0]));
  std::string line;
  std::getline(lines, line);
  const nlohmann::json sample = nlohmann::json::parse(line);
  EXPECT_EQ(sample["doc_id"], 0);
  EXPECT_EQ(sample["arguments"]["gen_args_1"]["arg_1"], " the sea and the ship");
  EXPECT_EQ(sample["filtered_resps"][2][0], results[0].scores[0][2].log_likelihood);
  EXPECT_EQ(sample["resps"][2][0][1], results[0].scores[0][2].greedy);
  const std::string table = results_table(results);
  EXPECT_NE(table.find("acc_norm"), std::string::npos) << table;
  EXPECT_EQ(std::count(table.begin(), table.end(), '\n'), 4) << table;
}

}  // namespace
}  // namespace nibble
