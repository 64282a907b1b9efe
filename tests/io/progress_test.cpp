#include "nibble/io/progress.h"

#include <gtest/gtest.h>

#include "nibble/io/format.h"

namespace nibble {
namespace {

/// A terminal or a log file in memory, with a clock that is set by hand.
struct Fake {
  std::string text;
  double now = 100;
  std::size_t columns = 60;
  ProgressOutput output(bool terminal) {
    ProgressOutput out;
    out.write = [this](std::string_view piece) { text += piece; };
    out.seconds = [this] { return now; };
    if (terminal) out.width = [this] { return columns; };
    return out;
  }
  /// What the terminal shows on its last line.
  std::string shown() const { return text.substr(text.rfind("\x1b[2K") + 4); }
};

TEST(ProgressLine, ShowsBarCountsRateAndEta) {
  const ProgressState state{.label = "wang2025-s1",
                            .done = 270,
                            .total = 600,
                            .rate = "2,960 tok/s",
                            .extra = "loss 3.8121",
                            .seconds = 100,
                            .remaining_seconds = 134};
  EXPECT_EQ(progress_line(state, 120),
            "wang2025-s1  [==========>             ]   45 %  270/600  2,960 tok/s  ETA 2:14  loss 3.8121");
}

TEST(ProgressLine, NeverExceedsTheTerminal) {
  const ProgressState state{
      .label = "größe", .done = 5, .total = 60000, .rate = "1 tok/s", .extra = "loss 3.8", .remaining_seconds = 99};
  for (std::size_t width = 0; width < 130; ++width) {
    const std::string line = progress_line(state, width);
    EXPECT_LE(display_width(line), width);
    if (width >= 60) {
      EXPECT_NE(line.find("loss 3.8"), std::string::npos) << "the bar goes first: " << line;
    }
  }
}

TEST(ProgressLine, HandlesMoreThanEverything) {
  const ProgressState state{.label = "", .done = 12, .total = 10, .seconds = 65};
  EXPECT_EQ(progress_line(state, 60), "[========================]  100 %  12/10  in 1:05");
}

TEST(ProgressLine, HasNoBarWithoutATotal) {
  const ProgressState state{.label = "reading", .done = 1234, .rate = "9 MB/s", .seconds = 7};
  EXPECT_EQ(progress_line(state, 80), "reading  1,234  9 MB/s  7 s");
}

TEST(Progress, RewritesOneLineOnATerminal) {
  Fake fake;
  Progress progress("train", 100, 0, fake.output(true));
  fake.now = 110;
  progress.update(25);
  EXPECT_NE(fake.shown().find("ETA 30 s"), std::string::npos) << fake.shown();
  EXPECT_EQ(fake.text.find('\n'), std::string::npos);
  const std::size_t before = fake.text.size();
  fake.now = 110.05;
  progress.update(26);
  EXPECT_EQ(fake.text.size(), before) << "at most ten redraws a second";
  fake.now = 111;
  fake.columns = 20;
  progress.update(27);
  EXPECT_LT(display_width(fake.shown()), 20u);
  fake.columns = 80;
  progress.message("a checkpoint");
  EXPECT_NE(fake.text.find("\x1b[2Ka checkpoint\n"), std::string::npos);
  EXPECT_NE(fake.shown().find("27/100"), std::string::npos);
  fake.now = 140;
  progress.update(100);
  progress.finish();
  EXPECT_NE(fake.shown().find("100/100  in 40 s"), std::string::npos) << fake.shown();
  EXPECT_TRUE(fake.text.ends_with("\n"));
}

TEST(Progress, DoesNotCountAResumedPartTowardsTheSpeed) {
  Fake fake;
  Progress progress("train", 100, 50, fake.output(true));
  fake.now = 110;
  progress.update(60);
  EXPECT_NE(fake.shown().find("ETA 40 s"), std::string::npos) << fake.shown();
}

TEST(Progress, WritesPlainLinesNowAndThenToAFile) {
  Fake fake;
  {
    Progress progress("train", 100, 0, fake.output(false));
    for (int i = 1; i <= 100; ++i) {
      fake.now += 0.5;
      progress.update(i, "2 tok/s");
    }
  }
  std::size_t lines = 0;
  for (char c : fake.text) lines += c == '\n' ? 1 : 0;
  EXPECT_EQ(lines, 5u) << fake.text;
  EXPECT_EQ(fake.text.find('\x1b'), std::string::npos);
  EXPECT_TRUE(fake.text.starts_with("train   20 %  20/100  2 tok/s  ETA 40 s\n")) << fake.text;
  EXPECT_TRUE(fake.text.ends_with("train  100 %  100/100  2 tok/s  in 50 s\n")) << fake.text;
}

TEST(Progress, WritesItsLastStateOnceOnly) {
  Fake fake;
  Progress progress("a", 2, 0, fake.output(false));
  progress.update(2);
  progress.finish();
  const std::string once = fake.text;
  progress.finish();
  EXPECT_EQ(fake.text, once);
}

}  // namespace
}  // namespace nibble
