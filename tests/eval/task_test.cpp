// Task files, and the prompts that the shipped ones make of a row.
#include "nibble/eval/task.h"

#include <gtest/gtest.h>

#include "nibble/eval/items.h"
#include "tests/data/compress.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

Task shipped(const std::string& name) { return load_task(std::string(NIBBLE_SOURCE_DIR) + "/tasks/" + name + ".toml"); }

Item item_of(const std::string& task, std::string row) {
  const TemporaryDirectory folder;
  std::replace(row.begin(), row.end(), '\n', ' ');  // a row is one line
  return read_items(shipped(task), folder.write("rows.jsonl", row + "\n"), 0).items.at(0);
}

TEST(Tasks, EveryShippedFileIsValid) {
  int files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(NIBBLE_SOURCE_DIR) + "/tasks")) {
    const Task task = load_task(entry.path());
    EXPECT_FALSE(task.metrics.empty()) << task.name;
    EXPECT_TRUE(task.source.starts_with("# ")) << task.name << " does not say where it comes from";
    ++files;
  }
  EXPECT_EQ(files, 15);
}

TEST(Tasks, ArcScoresTheTextOfEachChoice) {
  const Item item = item_of("arc_easy", R"({"question": "Which?", "choices": {"text": ["red", "blue", "a b"],
      "label": ["1", "2", "3"]}, "answerKey": "3"})");
  ASSERT_EQ(item.pairs.size(), 3u);
  EXPECT_EQ(item.pairs[2].context, "Question: Which?\nAnswer:");
  EXPECT_EQ(item.pairs[2].continuation, " a b");
  EXPECT_EQ(item.choices[2], "a b");
  EXPECT_EQ(item.gold, 2);
}

TEST(Tasks, BoolqAsksForNoOrYes) {
  const Item item = item_of("boolq", R"({"passage": "P.", "question": "is it", "label": 1})");
  EXPECT_EQ(item.pairs[0].context, "P.\nQuestion: is it?\nAnswer:");
  EXPECT_EQ(item.pairs[0].continuation + item.pairs[1].continuation, " no yes");
  EXPECT_EQ(item.gold, 1);
}

TEST(Tasks, HellaSwagCapitalisesAndCleans) {
  const Item item =
      item_of("hellaswag", R"({"activity_label": "Fishing", "ctx_a": "A man [step] sits.", "ctx_b": "he Looks",
      "endings": ["up. [title] Then", "down"], "label": "1"})");
  EXPECT_EQ(item.pairs[0].context, "Fishing: A man sits. He looks");
  EXPECT_EQ(item.pairs[0].continuation, " up.. Then");
  EXPECT_EQ(item.gold, 1);
}

TEST(Tasks, WinograndePutsTheOptionsIntoTheContext) {
  const Item item =
      item_of("winogrande", R"({"sentence": "Ann saw that _ won.", "option1": "Bea", "option2": "Cy", "answer": "2"})");
  EXPECT_EQ(item.pairs[0].context, "Ann saw that Bea");
  EXPECT_EQ(item.pairs[1].context, "Ann saw that Cy");
  EXPECT_EQ(item.pairs[0].continuation, " won.");
  EXPECT_EQ(item.pairs[1].continuation, " won.");
  EXPECT_EQ(item.gold, 1);
}

TEST(Tasks, CopaJoinsPremiseAndChoice) {
  const Item item = item_of(
      "copa",
      R"({"premise": "It rained. ", "choice1": "He left.", "choice2": "She ran.", "question": "effect", "label": 0})");
  EXPECT_EQ(item.pairs[0].context, "It rained therefore");
  EXPECT_EQ(item.pairs[0].continuation, "  he left.");
  EXPECT_EQ(item.choices[1], " she ran.");
}

TEST(Tasks, TheOthersArePlainTemplates) {
  EXPECT_EQ(
      item_of("logiqa", R"({"context": "C", "question": "Q", "options": ["w", "x", "y", "z"], "label": "c\n"})").gold,
      2);
  EXPECT_EQ(item_of("logiqa", R"({"context": "C", "question": "Q", "options": ["w", "x", "y", "z"], "label": "a"})")
                .pairs[3]
                .context,
            "Passage: C\nQuestion: Q\nChoices:\nA. w\nB. x\nC. y\nD. z\nAnswer:");
  const Item sciq = item_of("sciq", R"({"question": "Q", "distractor1": "a", "distractor2": "b", "distractor3": "c",
      "correct_answer": "d", "support": ""})");
  EXPECT_EQ(sciq.pairs[3].context + sciq.pairs[3].continuation, "\nQuestion: Q\nAnswer: d");
  EXPECT_EQ(sciq.gold, 3);
  const Item siqa = item_of("social_iqa", R"({"context": "C.", "question": "Why?", "answerA": "x", "answerB": "y",
      "answerC": "z", "label": "3"})");
  EXPECT_EQ(siqa.pairs[0].context, "Q: C. Why?\nA:");
  EXPECT_EQ(siqa.gold, 2);
  const Item lambada = item_of("lambada_openai", R"({"text": "He said\nthe word"})");
  EXPECT_EQ(lambada.pairs[0].context, "He said\nthe");
  EXPECT_EQ(lambada.pairs[0].continuation, " word");
  const Item page = item_of("wikitext", R"({"page": " = A = \n b @-@ c "})");
  EXPECT_EQ(page.pairs[0].continuation, " = A =\nb-c ");
  EXPECT_EQ(page.words, 8) << "of the page as it was";
  EXPECT_EQ(page.bytes, 17);
}

TEST(Tasks, MistakesInATaskFileNameFileLineAndKey) {
  const auto parsed = [](const std::string& text) { parse_task(text, "mine", "mine.toml"); };
  const std::string good = "context = \"{{q}}\"\nchoices = [\"a\", \"b\"]\ngold = \"0\"\n";
  EXPECT_USER_ERROR(parsed(good), "key 'metrics': must name at least one of acc, acc_norm, acc_bytes");
  EXPECT_USER_ERROR(parsed(good + "metrics = [\"perplexity\"]"),
                    "mine.toml:4: key 'metrics': 'perplexity' is not one of");
  EXPECT_USER_ERROR(parsed(good + "metrics = [\"acc\"]\nchoice = 1"), "mine.toml:5");
  EXPECT_USER_ERROR(parsed("kind = \"rolling\"\nmetrics = [\"bits_per_byte\"]"), "key 'text': is missing");
  EXPECT_USER_ERROR(parsed("kind = \"guess\""), "'guess' is not one of choices, continuation, rolling");
  EXPECT_USER_ERROR(parsed("context = [\"a\", \"b\"]\nchoices = [\"a\", \"b\"]\ngold = \"0\"\nmetrics = [\"acc\"]"),
                    "one of the two must be single");
}

TEST(Items, RowsAreCountedBeyondTheLimitAndBlankLinesAreNot) {
  const TemporaryDirectory folder;
  const Items items =
      read_items(shipped("lambada_openai"),
                 folder.write("l.jsonl", "{\"text\":\"a b\"}\n\n{\"text\":\"c d\"}\n{\"text\":\"e f\"}"), 2);
  EXPECT_EQ(items.rows, 3);
  ASSERT_EQ(items.items.size(), 2u);
  EXPECT_EQ(items.items[1].row, 1);
  EXPECT_EQ(items.items[1].pairs[0].continuation, " d");
}

TEST(Items, CompressedDataIsFoundByTheTasksName) {
  const TemporaryDirectory folder;
  folder.write("lambada_openai.jsonl.zst", zstd("{\"text\":\"a b\"}\n"));
  const Task task = shipped("lambada_openai");
  EXPECT_EQ(read_items(task, find_task_data(folder.path(), task), 0).rows, 1);
  EXPECT_USER_ERROR(find_task_data(folder.path(), shipped("piqa")), "name the folder with --data");
}

TEST(Items, ListsOfContextsAndChoicesOfDifferentLengthsAreRefused) {
  const TemporaryDirectory folder;
  const Task task =
      parse_task("context = \"{{c}}\"\nchoices = \"{{d}}\"\ngold = \"0\"\nmetrics = \"acc\"\n", "t", "t.toml");
  const auto read = [&](const char* row) { read_items(task, folder.write("d.jsonl", row), 0); };
  EXPECT_USER_ERROR(read(R"({"c": ["a", "b", "c"], "d": ["x", "y"]})"),
                    "d.jsonl:1: this row has 3 contexts and 2 choices");
  EXPECT_USER_ERROR(read(R"({"c": [], "d": ["x", "y"]})"), "d.jsonl:1: this row has 0 contexts and 2 choices");
  EXPECT_NO_THROW(read(R"({"c": ["a", "b", "c"], "d": ["x"]})"));
}

TEST(Items, MistakesInTheDataNameFileAndLine) {
  const TemporaryDirectory folder;
  const auto read = [&](const std::string& task, const std::string& rows) {
    read_items(shipped(task), folder.write("d.jsonl", rows), 0);
  };
  EXPECT_USER_ERROR(read("piqa", "{\"goal\":\"g\",\"sol1\":\"a\",\"label\":0}"),
                    "d.jsonl:1: this row has no field 'sol2'");
  EXPECT_USER_ERROR(read("piqa", "\n{\"goal\":"), "d.jsonl:2: malformed JSON");
  EXPECT_USER_ERROR(read("piqa", "[1]"), "d.jsonl:1: this line is not a JSON object");
  EXPECT_USER_ERROR(read("piqa", "{\"goal\":\"g\",\"sol1\":\"a\",\"sol2\":\"b\",\"label\":2}"),
                    "d.jsonl:1: the answer '2' is none of 0, 1");
  EXPECT_USER_ERROR(read("piqa", "\n"), "holds no rows");
  EXPECT_USER_ERROR(read("openbookqa",
                         "{\"question_stem\":\"q\",\"choices\":{\"text\":[\"a\"],\"label\":[\"A\"]},"
                         "\"answerKey\":\"A\"}"),
                    "has 1 choices");
  EXPECT_USER_ERROR(read("copa",
                         "{\"premise\":\"p\",\"choice1\":\"a\",\"choice2\":\"b\",\"question\":\"reason\","
                         "\"label\":0}"),
                    "the field 'question' holds 'reason', must be one of cause, effect");
}

}  // namespace
}  // namespace nibble
