// Checkpoints that ranks write together, beside the training or not: any number of ranks goes on from what any number
// wrote, with the bits of a run that nobody stopped; what is not whole does not count.
#include "nibble/train/checkpoint_writer.h"

#include <sys/resource.h>

#include <csignal>

#include "nibble/train/memory.h"
#include "nibble/train/stored_model.h"
#include "tests/train/rank_runs.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// A recipe whose layers keep state from step to step, some of which begins amid the run.
Recipe recipe_with_state() {
  Recipe recipe = recipe_for_test("tetrajet2");
  for (Stage& stage : recipe.stages) {
    for (LinearRecipe& linear : stage.linear) {
      linear.weight_average.start_step = 2;
      linear.oscillation_reset.start_fraction = 0.2;
      linear.oscillation_reset.period = 4;
      linear.oscillation_reset.window = 3;
    }
  }
  return recipe;
}

int count_parts(const fs::path& checkpoint, int ranks) {
  int found = 0;
  for (int rank = 0; rank < ranks; ++rank) {
    if (fs::exists(checkpoint / safetensors_part_name("optimizer", rank, ranks))) ++found;
  }
  return found;
}

void expect_no_leftovers(const fs::path& run) {
  for (const auto& entry : fs::directory_iterator(run / kCheckpointsFolder)) {
    EXPECT_EQ(entry.path().filename().string().find(".tmp-"), std::string::npos) << entry.path();
  }
}

class HopsOf : public testing::TestWithParam<bool> {};

TEST_P(HopsOf, RanksGiveTheBitsOfTheRunThatNobodyStopped) {
  constexpr int kSteps = 9;
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), kSteps);
  config.checkpoint_async = GetParam();
  for (const OptimizerKind optimizer : {OptimizerKind::AdamW, OptimizerKind::AdamWFp8}) {
    config.optimizer = optimizer;
    const Recipe recipe = recipe_with_state();
    const std::string name = optimizer == OptimizerKind::AdamW ? "adamw" : "fp8";
    const fs::path whole = folder.path() / (name + "-whole");
    ASSERT_TRUE(train_on(1, config, recipe, whole));
    std::mt19937 rng(GetParam() ? 11 : 12);
    const auto state = contents_of_checkpoint(newest_checkpoint(whole).value());
    EXPECT_TRUE(state.lower_bound("recipe/") != state.end() && state.lower_bound("recipe/")->first < "recipe0");
    // Nearly every number of ranks hands over to another one.
    std::vector<int> hops = {4, 2, 3, 1, 4, 3, 2, 1};
    std::shuffle(hops.begin(), hops.end(), rng);
    const fs::path run = folder.path() / name;
    std::string trace = name;
    std::int64_t step = 0;
    for (const int ranks : hops) {
      const std::int64_t until = std::min<std::int64_t>(kSteps, step + 1 + static_cast<std::int64_t>(rng() % 2));
      trace += fmt::format(", {} ranks to step {}", ranks, until);
      SCOPED_TRACE(trace);
      const bool last = train_on(ranks, config, recipe, run, Resume::IfPresent, until);
      const fs::path newest = newest_checkpoint(run).value();
      EXPECT_EQ(count_parts(newest, ranks), ranks);
      step = load_state(newest).step;
      EXPECT_TRUE(step == until || step == until + 1);  // the last rank may hear of it a step later
      EXPECT_EQ(last, step == kSteps);
      expect_no_leftovers(run);
      if (last) break;
    }
    if (step < kSteps) {
      ASSERT_TRUE(train_on(2, config, recipe, run, Resume::Required));
    }
    SCOPED_TRACE(trace);
    expect_same_run(whole, run);
  }
}

INSTANTIATE_TEST_SUITE_P(Writing, HopsOf, testing::Bool(),
                         [](const auto& test) { return test.param ? "BesideTheTraining" : "AtOnce"; });

/// States of which a rank has rows alone, those of matrices, as ranks that share an optimizer's states have them.
class PiecesOfStates final : public Optimizer {
 public:
  PiecesOfStates(Llama& model, const Ranks& ranks) {
    for (const Parameter& p : model.parameters()) {
      std::vector<std::int64_t> shape(p.value.shape().begin(), p.value.shape().end());
      const RowRange rows = shape.size() > 1 ? RowPieces(shape[0], ranks.size).of(ranks.rank) : RowRange{0, shape[0]};
      std::vector<std::int64_t> mine = shape;
      mine[0] = rows.size();
      memory_.emplace_back(DType::F32, mine);
      states_.push_back({p.name + ".m", shape, rows.begin, memory_.back()});
    }
  }
  /// Elements by their number in the whole tensor.
  void number() {
    for (const StateTensor& state : states_) {
      const std::int64_t columns = state.shape.size() > 1 ? state.shape[1] : 1;
      for (std::int64_t i = 0; i < state.rows.numel(); ++i) {
        state.rows.data<float>()[i] = static_cast<float>(state.first_row * columns + i);
      }
    }
  }
  bool equals(const PiecesOfStates& other) const {
    for (std::size_t i = 0; i < states_.size(); ++i) {
      const Tensor& a = states_[i].rows;
      const Tensor& b = other.states_[i].rows;
      if (a.numel() != b.numel() || !std::equal(a.data<float>(), a.data<float>() + a.numel(), b.data<float>())) {
        return false;
      }
    }
    return true;
  }
  void step(AdamWStep) override {}
  void visit(const std::function<void(const StateTensor&)>& f) const override {
    for (const StateTensor& state : states_) f(state);
  }

 private:
  std::deque<OwnedTensor> memory_;
  std::vector<StateTensor> states_;
};

TEST(CheckpointWriter, StatesThatRanksHaveInPiecesAreWrittenAndReadByAnyNumberOfThem) {
  const TemporaryDirectory folder;
  const TrainConfig config = small_config(write_small_data(folder.path()), 3);
  TrainState state;
  state.step = 3;
  state.config = to_toml(config);
  for (int writers = 1; writers <= 5; ++writers) {
    const fs::path run = folder.path() / std::to_string(writers);
    on_thread_ranks(writers, [&](ThreadRank& rank) {
      Llama model(config.model, recipe_for_test("bf16"), 1);
      PiecesOfStates states(model, rank.ranks());
      states.number();
      CheckpointWriter(rank, run, Device::Cpu, 1, true).save(state, model, states);
    });
    // Several ranks complete it by calls of finish; here the objects end before.
    EXPECT_EQ(newest_checkpoint(run).has_value(), writers == 1);
    on_thread_ranks(writers, [&](ThreadRank& rank) {
      Llama model(config.model, recipe_for_test("bf16"), 1);
      PiecesOfStates states(model, rank.ranks());
      states.number();
      CheckpointWriter writer(rank, run, Device::Cpu, 1, true);
      writer.save(state, model, states);
      writer.finish();
    });
    for (int readers = 1; readers <= 5; ++readers) {
      SCOPED_TRACE(fmt::format("{} to {}", writers, readers));
      on_thread_ranks(readers, [&](ThreadRank& rank) {
        const auto checkpoint = newest_checkpoint(rank, run);
        ASSERT_TRUE(checkpoint.has_value());
        Llama model(config.model, recipe_for_test("bf16"), 2);
        PiecesOfStates expected(model, rank.ranks()), found(model, rank.ranks());
        expected.number();
        load_optimizer(*checkpoint, found);
        EXPECT_TRUE(found.equals(expected));
        load_weights(*checkpoint, model);
        const Llama origin(config.model, recipe_for_test("bf16"), 1);
        const Tensor a = model.flat_values(), b = origin.flat_values();
        EXPECT_TRUE(std::equal(a.data<float>(), a.data<float>() + a.numel(), b.data<float>()));
      });
    }
    expect_no_leftovers(run);
  }
}

TEST(CheckpointWriter, WhatIsWrittenBesideTheTrainingIsTheStateOfTheSave) {
  for (const OptimizerKind kind : {OptimizerKind::AdamW, OptimizerKind::AdamWFp8}) {
    const TemporaryDirectory folder;
    const TrainConfig config = small_config(write_small_data(folder.path()), 3);
    const auto alone = make_single_process(Device::Cpu);
    Llama model(config.model, recipe_for_test("bf16"), 1, DType::BF16, Device::Cpu, storage_for(kind, DType::F32));
    const auto optimizer = make_optimizer(kind, model);
    TrainState state;
    state.step = 3;
    save_checkpoint(folder / "at-once", state, model, *optimizer, 1);
    {
      CheckpointWriter writer(*alone, folder / "beside", Device::Cpu, 1, true);
      writer.save(state, model, *optimizer);
      optimizer->visit([](const StateTensor& t) { std::memset(t.rows.raw(), 1, t.rows.bytes()); });
      fill_zero(model.flat_values());
      EXPECT_GT(writer.bytes(), 0u);
    }
    EXPECT_TRUE(contents_of_checkpoint(newest_checkpoint(folder / "at-once").value()) ==
                contents_of_checkpoint(newest_checkpoint(folder / "beside").value()));
    for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"}) {
      EXPECT_TRUE(read_file(folder / "at-once/checkpoints/step-00000003" / file) ==
                  read_file(folder / "beside/checkpoints/step-00000003" / file));
    }
  }
}

TEST(CheckpointWriter, ItsCopiesAreInTheMemoryPlan) {
  for (const OptimizerKind kind : {OptimizerKind::AdamW, OptimizerKind::AdamWFp8}) {
    const TemporaryDirectory folder;
    TrainConfig config = config_of_ranks(write_small_data(folder.path()));
    config.optimizer = kind;
    const Recipe recipe = recipe_for_test("tetrajet2");
    const double without = plan_memory(memory_question(config, recipe)).total();
    config.checkpoint_async = true;
    const double predicted = plan_memory(memory_question(config, recipe)).total() - without;
    Llama model(config.model, recipe, 1, DType::BF16, Device::Cpu, storage_for(kind, DType::F32));
    const auto alone = make_single_process(Device::Cpu);
    CheckpointWriter writer(*alone, folder / "run", Device::Cpu, 1, true);
    writer.save({}, model, *make_optimizer(kind, model));
    EXPECT_NEAR(predicted, static_cast<double>(writer.bytes()), 0.01 * predicted);
  }
}

TEST(CheckpointWriter, WhatItCannotWriteEndsTheRunWithItsSentence) {
  const TemporaryDirectory folder;
  TrainConfig config = config_of_ranks(write_small_data(folder.path()), 50);
  config.checkpoint_async = true;
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_FSIZE, &before), 0);
  const auto handler = std::signal(SIGXFSZ, SIG_IGN);
  rlimit limit = before;
  limit.rlim_cur = 100000;  // the log's lines fit
  ASSERT_EQ(setrlimit(RLIMIT_FSIZE, &limit), 0);
  EXPECT_USER_ERROR(train(config, recipe_for_test("bf16"), folder / "run", Resume::No, kNeverStop, {}), "cannot write");
  setrlimit(RLIMIT_FSIZE, &before);
  std::signal(SIGXFSZ, handler);
  EXPECT_FALSE(newest_checkpoint(folder / "run").has_value());
  expect_no_leftovers(folder / "run");
}

/// A run of three ranks with two checkpoints.
class PartsOfARun : public testing::Test {
 protected:
  void SetUp() override {
    const TrainConfig config = config_of_ranks(write_small_data(folder_.path()), 4);
    ASSERT_TRUE(train_on(3, config, recipe_for_test("bf16"), run()));
    newest_ = newest_checkpoint(run()).value();
  }
  fs::path run() const { return folder_.path() / "run"; }
  void expect_refused(const std::string& sentence) {
    EXPECT_USER_ERROR(StoredModel::open(newest_), sentence);
    for (const int ranks : {1, 2, 3}) {
      std::vector<std::string> warnings;
      on_thread_ranks(ranks, [&](ThreadRank& rank) {
        const auto found = newest_checkpoint(rank, run(), [&](const std::string& text) {
          if (rank.rank() == 0) warnings.push_back(text);
        });
        ASSERT_TRUE(found.has_value());
        EXPECT_EQ(found->filename(), "step-00000002");
      });
      ASSERT_EQ(warnings.size(), 1u);
      EXPECT_NE(warnings[0].find(sentence), std::string::npos) << warnings[0];
    }
  }
  TemporaryDirectory folder_;
  fs::path newest_;
};

TEST_F(PartsOfARun, AreReadAsOneModel) {
  const StoredModel parts = StoredModel::open(run());
  EXPECT_EQ(count_parts(parts.path(), 3), 3);
  const TrainConfig config = config_of_ranks(folder_.path() / "data", 4);
  ASSERT_TRUE(train_on(1, config, recipe_for_test("bf16"), folder_ / "one"));
  const StoredModel one = StoredModel::open(folder_ / "one");
  const std::vector<std::int32_t> tokens = {1, 5, 9, 40, 33};
  EXPECT_EQ(parts.load(std::nullopt, Device::Cpu)->next_token_logits(tokens),
            one.load(std::nullopt, Device::Cpu)->next_token_logits(tokens));
  // What a run begins with.
  TrainConfig begun = config;
  begun.init = parts.path();
  begun.steps = 1;
  EXPECT_TRUE(train_on(2, begun, recipe_for_test("bf16"), folder_ / "begun"));
}

TEST_F(PartsOfARun, OneOfWhichIsMissingDoNotCount) {
  fs::remove(newest_ / safetensors_part_name("model", 1, 3));
  expect_refused("model.rank-00001-of-00003.safetensors' is missing");
  EXPECT_USER_ERROR(SafetensorsFolder{newest_}, "is missing, one of 3 parts");
}

TEST_F(PartsOfARun, OneOfWhichIsDamagedDoNotCount) {
  const fs::path part = newest_ / safetensors_part_name("optimizer", 2, 3);
  std::string bytes = read_file(part);
  bytes.back() = static_cast<char>(bytes.back() ^ 1);
  write_file_atomic(part, bytes);
  expect_refused("optimizer.rank-00002-of-00003.safetensors' is damaged");
  TrainConfig begun = config_of_ranks(folder_.path() / "data", 1);
  begun.init = newest_;
  EXPECT_USER_ERROR(train_on(2, begun, recipe_for_test("bf16"), folder_ / "begun"), "is damaged");
}

TEST_F(PartsOfARun, OneOfWhichIsOfAnotherJobDoNotCount) {
  TrainConfig other = config_of_ranks(folder_.path() / "data", 4);
  other.seed = 4;
  ASSERT_TRUE(train_on(3, other, recipe_for_test("bf16"), folder_ / "other"));
  const std::string part = safetensors_part_name("model", 1, 3);
  fs::copy_file(newest_checkpoint(folder_ / "other").value() / part, newest_ / part,
                fs::copy_options::overwrite_existing);
  EXPECT_USER_ERROR(SafetensorsFolder{newest_}, "they are of different jobs or steps");
  expect_refused("model.rank-00001-of-00003.safetensors' is damaged");
}

TEST_F(PartsOfARun, OfWhichTheListIsShortDoNotCount) {
  nlohmann::json state = read_json(newest_ / kStateFile);
  state["checksums"].erase(safetensors_part_name("optimizer", 1, 3));
  write_json_atomic(newest_ / kStateFile, state);
  expect_refused("is not a checkpoint's state");
}

TEST_F(PartsOfARun, LeftoversOfDeadWritersAreRemovedByTheNextSaveAndThoseOfLivingOnesAreNot) {
  const fs::path folder = run() / kCheckpointsFolder;
  make_directories(folder / "step-00000003.tmp-1-1");
  write_file_atomic(folder / "step-00000003.tmp-1-1/model.rank-00000-of-00002.safetensors", "half");
  AtomicDirectory alive(folder / "step-00000003");
  TrainConfig longer = config_of_ranks(folder_.path() / "data", 4);
  const auto state = load_state(newest_);
  on_thread_ranks(2, [&](ThreadRank& rank) {
    Llama model(longer.model, recipe_for_test("bf16"), 1);
    const auto optimizer = make_optimizer(OptimizerKind::AdamW, model);
    CheckpointWriter writer(rank, run(), Device::Cpu, 5, true);
    writer.save(state, model, *optimizer);
    writer.finish();
  });
  EXPECT_FALSE(fs::exists(folder / "step-00000003.tmp-1-1"));
  EXPECT_TRUE(fs::exists(alive.path()));
  EXPECT_EQ(count_parts(newest_checkpoint(run()).value(), 2), 2);  // in the place of the old one
  EXPECT_EQ(count_parts(newest_checkpoint(run()).value(), 3), 0);
}

}  // namespace
}  // namespace nibble
