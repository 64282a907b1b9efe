#include "nibble/eval/request.h"

#include <gtest/gtest.h>

#include <numeric>

#include "tests/data/english.h"

namespace nibble {
namespace {

using Ids = std::vector<std::int32_t>;

TEST(Request, TheInputEndsBeforeTheLastTarget) {
  EXPECT_EQ(request_of({1, 2, 3}, {4, 5}, 10), (Request{{1, 2, 3, 4}, {4, 5}}));
  EXPECT_EQ(request_of({1}, {4}, 10), (Request{{1}, {4}}));
}

TEST(Request, WhatIsTooLongLosesItsBeginning) {
  EXPECT_EQ(request_of({1, 2, 3}, {4, 5}, 3), (Request{{2, 3, 4}, {4, 5}}));
  EXPECT_EQ(request_of({1, 2, 3}, {4, 5}, 2), (Request{{3, 4}, {4, 5}}));
  EXPECT_USER_ERROR(request_of({1, 2, 3}, {4, 5}, 1), "its continuation has 2 tokens, the model reads 1");
  EXPECT_USER_ERROR(request_of({1, 2, 3}, {}, 9), "no tokens of its own");
}

TEST(Request, RollingWindowsAreThoseOfTheHarness) {
  Ids ids(10);
  std::iota(ids.begin(), ids.end(), 0);
  EXPECT_EQ(
      rolling_requests(ids, 99, 4),
      (std::vector<Request>{{{99, 0, 1, 2}, {0, 1, 2, 3}}, {{3, 4, 5, 6}, {4, 5, 6, 7}}, {{5, 6, 7, 8}, {8, 9}}}));
  EXPECT_EQ(rolling_requests(Ids{7, 8}, 99, 4), (std::vector<Request>{{{99, 7}, {7, 8}}}));
  EXPECT_EQ(rolling_requests(Ids{7, 8}, 99, 2), (std::vector<Request>{{{99, 7}, {7, 8}}}));
  EXPECT_TRUE(rolling_requests(Ids{}, 99, 4).empty());
}

TEST(Request, EveryTokenIsScoredOnceInItsContext) {
  for (int n = 1; n < 40; ++n) {
    for (int length = 1; length < 12; ++length) {
      Ids ids(static_cast<std::size_t>(n));
      std::iota(ids.begin(), ids.end(), 0);
      Ids scored;
      for (const Request& window : rolling_requests(ids, -1, length)) {
        ASSERT_LE(window.input.size(), static_cast<std::size_t>(length));
        for (std::size_t i = 0; i < window.targets.size(); ++i) {
          const std::size_t at = window.input.size() - window.targets.size() + i;
          ASSERT_EQ(window.input[at], window.targets[i] - 1) << n << " tokens, " << length << " at a time";
          scored.push_back(window.targets[i]);
        }
      }
      ASSERT_EQ(scored, ids) << n << " tokens, " << length << " at a time";
    }
  }
}

const Tokenizer& tokenizer() { return small_tokenizer(); }

Ids joined_ids(const Request& request) {
  Ids ids = request.input;
  ids.push_back(request.targets.back());
  return ids;
}

TEST(RequestEncoder, ContextAndContinuationAreEncodedAsOneText) {
  const RequestEncoder encoder(tokenizer(), {.prefix = 2, .add_bos = false, .max_length = 1000});
  const std::string context = "It is a truth universally acknowledged, that a single";
  const Request request = encoder.pair(context, " man");
  EXPECT_EQ(joined_ids(request), tokenizer().encode(context + " man"));
  EXPECT_EQ(request.input.size() + 1 - request.targets.size(), tokenizer().encode(context).size());
}

TEST(RequestEncoder, SpacesAtTheBorderGoToTheContinuation) {
  const RequestEncoder encoder(tokenizer(), {.prefix = 2, .add_bos = false, .max_length = 1000});
  EXPECT_EQ(encoder.pair("a single \n", "man"), encoder.pair("a single", " \nman"));
  EXPECT_EQ(encoder.pair("a single\xC2\xA0", "man"), encoder.pair("a single", "\xC2\xA0man"));
}

TEST(RequestEncoder, AnEmptyContextIsThePrefix) {
  const RequestEncoder encoder(tokenizer(), {.prefix = 2, .add_bos = false, .max_length = 1000});
  const Ids ids = tokenizer().encode("single man");
  const Request request = encoder.pair("", "single man");
  EXPECT_EQ(request.input.front(), 2);
  EXPECT_EQ(request.targets, ids);
  // A continuation that begins with the prefix gives it away.
  const RequestEncoder same(tokenizer(), {.prefix = ids[0], .add_bos = false, .max_length = 1000});
  EXPECT_EQ(same.pair("", "single man").targets, Ids(ids.begin() + 1, ids.end()));
}

TEST(RequestEncoder, WithBosEveryTextBeginsWithIt) {
  const RequestEncoder encoder(tokenizer(), {.prefix = 1, .add_bos = true, .max_length = 1000});
  EXPECT_EQ(encoder.pair("a single", " man").input.front(), tokenizer().bos_id());
  // As in the harness, a rolling text is then <s> <s> ..., and the second <s> is scored.
  const std::vector<Request> windows = encoder.rolling("a single man");
  ASSERT_EQ(windows.size(), 1u);
  EXPECT_EQ(windows[0].input[0], 1);
  EXPECT_EQ(windows[0].targets[0], 1);
}

}  // namespace
}  // namespace nibble
