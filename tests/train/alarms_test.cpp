#include "nibble/train/alarms.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>

#include "tests/temporary_directory.h"

namespace nibble {
namespace {

constexpr std::size_t at(Operand o) { return static_cast<std::size_t>(o); }

/// Two layers without a fault.
Telemetry healthy() {
  Telemetry t;
  for (const char* name : {"layers.0.mlp.down", "layers.1.mlp.down"}) {
    LayerTelemetry layer;
    layer.layer = name;
    for (QuantQuality& q : layer.operands) {
      q.count = 1000;
      q.blocks = 100;
    }
    for (ProductQuality& p : layer.products) p = {.exact = 1, .computed = 1, .dot = 0.99, .noise = 0.01, .count = 10};
    layer.oscillation = Oscillation{1, 1};
    t.layers.push_back(layer);
  }
  t.gradient = t.layers[0].products[2];
  return t;
}

std::vector<std::string> sentences(const std::vector<Alarm>& alarms) {
  std::vector<std::string> all;
  for (const Alarm& alarm : alarms) all.push_back(alarm.sentence);
  return all;
}

TEST(Alarms, AreSilentWhereNothingIsWrong) {
  Alarms alarms{AlarmSettings()};
  EXPECT_TRUE(sentences(alarms.check_telemetry(healthy())).empty());
}

TEST(Alarms, NameTheWorstLayerAndCountTheOthers) {
  Telemetry t = healthy();
  t.layers[0].operands[at(Operand::WgradDy)].underflow = 650;
  t.layers[1].operands[at(Operand::WgradDy)].underflow = 700;
  Alarms alarms{AlarmSettings()};
  EXPECT_EQ(sentences(alarms.check_telemetry(t)),
            std::vector<std::string>{"70 % of the nonzero elements of wgrad.dy became zero in layers.1.mlp.down and 1 "
                                     "more layer (alarm above 60 %)"});
}

TEST(Alarms, WatchEveryFigure) {
  struct Fault {
    AlarmKind kind;
    void (*make)(Telemetry&);
    const char* words;
  };
  const Fault faults[] = {
      {AlarmKind::Underflow, [](Telemetry& t) { t.layers[1].operands[0].underflow = 601; },
       "60.1 % of the nonzero elements of fprop.x became zero in layers.1.mlp.down"},
      {AlarmKind::Clipped, [](Telemetry& t) { t.layers[0].operands[1].clipped = 201; },
       "20.1 % of the elements of fprop.w were clipped in layers.0.mlp.down"},
      {AlarmKind::ScaleSaturated, [](Telemetry& t) { t.layers[0].operands[2].scale_saturated = 2; },
       "2 % of the block scales of dgrad.dy are at the top of their format"},
      {AlarmKind::ProductCosine, [](Telemetry& t) { t.layers[1].products[2].dot = 0.45; },
       "the cosine between wgrad and the exact product fell to 0.45 in layers.1.mlp.down (alarm below 0.5)"},
      {AlarmKind::Oscillation, [](Telemetry& t) { t.layers[1].oscillation->quantised = 17; },
       "the quantised weight moves 17 times as far as the weight in layers.1.mlp.down (alarm above 16)"},
      {AlarmKind::GradientToNoise, [](Telemetry& t) { t.gradient.noise = 4.0 / 9; },
       "the weight gradient is 1.5 times its quantisation noise, less than 1.732"}};
  for (const Fault& fault : faults) {
    Telemetry t = healthy();
    fault.make(t);
    Alarms alarms{AlarmSettings()};
    const std::vector<Alarm> fired = alarms.check_telemetry(t);
    ASSERT_EQ(fired.size(), 1u) << fault.words;
    EXPECT_EQ(fired[0].kind, fault.kind);
    EXPECT_NE(fired[0].sentence.find(fault.words), std::string::npos) << fired[0].sentence;

    AlarmSettings off;
    off.threshold[static_cast<std::size_t>(fault.kind)] = 0;
    EXPECT_TRUE(Alarms(off).check_telemetry(t).empty()) << "a threshold of 0 is off";
  }
}

TEST(Alarms, FireOnceUntilTheyClear) {
  Alarms alarms{AlarmSettings()};
  const auto fires_at = [&](std::int64_t underflow) {
    Telemetry t = healthy();
    t.layers[0].operands[0].underflow = underflow;
    return !alarms.check_telemetry(t).empty();
  };
  EXPECT_FALSE(fires_at(600)) << "the threshold itself is not above it";
  EXPECT_TRUE(fires_at(601));
  EXPECT_FALSE(fires_at(900));
  EXPECT_FALSE(fires_at(550)) << "not yet clear";
  EXPECT_FALSE(fires_at(601));
  EXPECT_FALSE(fires_at(539)) << "clear";
  EXPECT_TRUE(fires_at(601));
}

TEST(Alarms, DoNotTakeAGradientEstimatorForNoise) {
  Telemetry t = healthy();
  t.layers[0].products[2].dot = 0.3;
  t.layers[0].estimated_gradient = true;
  EXPECT_TRUE(Alarms(AlarmSettings()).check_telemetry(t).empty());
}

TEST(Alarms, CountAnOperandThatServesAgainOnce) {
  Telemetry t = healthy();
  for (Operand o : {Operand::FpropW, Operand::DgradW}) t.layers[0].operands[at(o)].underflow = 900;
  t.layers[0].reused[at(Operand::DgradW)] = true;
  EXPECT_EQ(Alarms(AlarmSettings()).check_telemetry(t).size(), 1u);
}

TEST(Alarms, FireOnASpikeOfTheLossAndNotOnItsNoise) {
  constexpr unsigned kSeed = 7;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 rng(kSeed);
  std::normal_distribution<double> noise(0, 0.1);
  Alarms alarms{AlarmSettings()};
  std::vector<std::string> fired;
  for (int step = 1; step <= 400; ++step) {
    double loss = 3 + 7 * std::exp(-step / 40.0) + noise(rng);
    if (step == 300) loss += 3;
    for (const Alarm& alarm : alarms.check_step(loss, 1 + 0.1 * noise(rng))) {
      EXPECT_EQ(alarm.kind, AlarmKind::LossSpike);
      fired.push_back(fmt::format("{}: {}", step, alarm.sentence));
    }
  }
  ASSERT_EQ(fired.size(), 1u);
  EXPECT_EQ(fired[0].find("300: the loss lies "), 0u) << fired[0];
  EXPECT_NE(fired[0].find("deviations above its median of the last 64 steps (alarm above 8)"), std::string::npos);
}

TEST(Alarms, MeasureASpikeInRobustDeviations) {
  // 16 values each of 1, 2, 3: the median is 2 and half of the distances are at most 1.
  const auto fires_at = [](double norm) {
    AlarmSettings settings;
    settings.threshold[static_cast<std::size_t>(AlarmKind::GradientSpike)] = 2;
    Alarms alarms(settings);
    for (int i = 0; i < 48; ++i) EXPECT_TRUE(alarms.check_step(1, 1 + i % 3).empty());
    return !alarms.check_step(1, norm).empty();
  };
  EXPECT_FALSE(fires_at(2 + 2 * 1.4826 - 1e-6));
  EXPECT_TRUE(fires_at(2 + 2 * 1.4826 + 1e-6));
}

TEST(Alarms, KnowNoSpikeInTheFirstSteps) {
  Alarms alarms{AlarmSettings()};
  for (int step = 0; step < 31; ++step) EXPECT_TRUE(alarms.check_step(step % 5 == 0 ? 100 : 1, 1).empty());
}

TEST(Alarms, GoOnFromARestoredState) {
  constexpr unsigned kSeed = 11;
  SCOPED_TRACE(testing::Message() << "seed " << kSeed);
  std::mt19937 rng(kSeed);
  std::vector<std::pair<double, double>> figures;
  for (int i = 0; i < 200; ++i) {
    const auto value = [&] { return std::abs(std::cauchy_distribution<double>(5, 0.1)(rng)); };
    figures.emplace_back(value(), value());
  }
  std::vector<std::string> whole, parts;
  Alarms uninterrupted{AlarmSettings()};
  auto resumed = std::make_unique<Alarms>(AlarmSettings());
  for (const auto& [loss, norm] : figures) {
    for (const std::string& s : sentences(uninterrupted.check_step(loss, norm))) whole.push_back(s);
    const AlarmState state = resumed->state();
    resumed = std::make_unique<Alarms>(AlarmSettings());
    resumed->restore(state);
    for (const std::string& s : sentences(resumed->check_step(loss, norm))) parts.push_back(s);
  }
  EXPECT_EQ(whole, parts);
  EXPECT_GT(whole.size(), 3u);
}

AlarmSettings settings_of(const std::string& text) {
  return read_alarm_settings(ConfigTable::parse_text(text, "c.toml").table("alarms"));
}

TEST(AlarmSettings, ChooseWhichKindsStop) {
  const Alarm spike{AlarmKind::LossSpike, ""};
  const Alarm underflow{AlarmKind::Underflow, ""};
  EXPECT_FALSE(Alarms(settings_of("")).stops(spike));
  EXPECT_TRUE(Alarms(settings_of("[alarms]\nstop = true")).stops(underflow));
  const Alarms some(settings_of("[alarms]\nstop = true\nstop_kinds = [\"loss_spike\"]"));
  EXPECT_TRUE(some.stops(spike));
  EXPECT_FALSE(some.stops(underflow));
  EXPECT_FALSE(Alarms(settings_of("[alarms]\nstop_kinds = [\"loss_spike\"]")).stops(spike)) << "stop is false";
}

TEST(AlarmSettings, PrintToTheSameSettings) {
  for (const char* text : {"", "[alarms]\nunderflow = 0.25\nstop = true",
                           "[alarms]\nloss_spike = 0\nstop = true\nstop_kinds = [\"clipped\", \"gradient_spike\"]"}) {
    const std::string printed = to_toml(settings_of(text));
    EXPECT_EQ(to_toml(settings_of(printed)), printed) << text;
  }
}

TEST(AlarmSettings, RefuseAnUnknownKind) {
  EXPECT_USER_ERROR(settings_of("[alarms]\nstop_kinds = [\"loss\"]"), "'loss' is not one of underflow, clipped");
}

}  // namespace
}  // namespace nibble
