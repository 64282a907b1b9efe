#include "nibble/eval/template.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "nibble/eval/render.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

const nlohmann::json kRow = {{"question", " Why? "},
                             {"label", 1},
                             {"yes", true},
                             {"choices", {{"text", {"red", "blue "}}, {"label", {"A", "B"}}}}};

std::string rendered(const std::string& text) {
  return render(Template(text, "t.toml: key context"), kRow, "d.jsonl:7");
}

TEST(Template, FillsFieldsElementsAndRules) {
  EXPECT_EQ(rendered("Question: {{question}}\nAnswer:"), "Question:  Why? \nAnswer:");
  EXPECT_EQ(rendered("{{ question | strip }}{{label}}{{yes}}"), "Why?1true");
  EXPECT_EQ(rendered("{{choices.label.1}}. {{choices.text.1|strip|drop_last}}"), "B. blu");
  EXPECT_EQ(rendered("no fields { }"), "no fields { }");
  EXPECT_EQ(rendered(""), "");
}

TEST(Template, AListGivesItsElementsWhereNothingStandsAroundIt) {
  const auto all = [](const std::string& text) { return render_all(Template(text, "t"), kRow, "d"); };
  EXPECT_EQ(all("{{choices.text | strip}}"), (std::vector<std::string>{"red", "blue"}));
  EXPECT_EQ(all("{{question}}"), (std::vector<std::string>{" Why? "}));
  EXPECT_EQ(all("no"), (std::vector<std::string>{"no"}));
  EXPECT_USER_ERROR(all("a {{choices.text}}"), "d: the field 'choices.text' holds array, must be a text or a number");
}

TEST(Template, MistakesNameFileLineAndField) {
  EXPECT_USER_ERROR(rendered("{{answer}}"), "d.jsonl:7: this row has no field 'answer'");
  EXPECT_USER_ERROR(rendered("{{choices.text.2}}"), "d.jsonl:7: this row has no field 'choices.text.2'");
  EXPECT_USER_ERROR(rendered("{{question | after_blank}}"), "d.jsonl:7: field 'question': the sentence");
  EXPECT_USER_ERROR(rendered("{{question"), "t.toml: key context: '{{' without '}}'");
  EXPECT_USER_ERROR(rendered("{{ | strip}}"), "names no field");
  EXPECT_USER_ERROR(rendered("{{question | trim}}"), "there is no text rule 'trim'");
}

}  // namespace
}  // namespace nibble
