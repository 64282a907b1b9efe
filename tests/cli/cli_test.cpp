// The program as a user meets it: exit codes, sentences, and runs that are killed.
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "nibble/io/run_log.h"
#include "nibble/train/checkpoint.h"
#include "tests/cli/program.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;
const std::string kNibble = std::string(NIBBLE_BINARY_DIR) + "/nibble";

std::string write_config(const TemporaryDirectory& folder, int steps) {
  const fs::path file = folder.path() / "c.toml";
  std::ofstream(file) << small_config_text(write_small_data(folder.path()), steps);
  return file.string();
}

TEST(Cli, HelpListsTheCommandsAndEachHasExamples) {
  const Output help = run("help");
  EXPECT_EQ(help.code, 0);
  for (const char* command : {"train", "compare", "report", "generate", "eval", "data", "tokenizer", "doctor"}) {
    EXPECT_NE(help.text.find(command), std::string::npos) << command;
  }
  for (const char* command : {"train", "compare", "report", "generate", "data prepare", "tokenizer train", "doctor"}) {
    const Output own = run(std::string(command) + " --help");
    EXPECT_EQ(own.code, 0) << command;
    EXPECT_NE(own.text.find("Examples:"), std::string::npos) << command;
  }
}

TEST(Cli, SaysItsVersion) {
  const Output said = run("--version");
  EXPECT_EQ(said.code, 0);
  const std::string project = read_file(NIBBLE_SOURCE_DIR "/CMakeLists.txt");
  const std::string version = "project(nibble VERSION ";
  const std::size_t at = project.find(version) + version.size();
  EXPECT_EQ(said.text, "nibble " + project.substr(at, project.find(' ', at) - at) + "\n");
}

TEST(Cli, MistakesGetOneSentenceAndExitCode2) {
  TemporaryDirectory folder;
  const std::string config = write_config(folder, 2);
  const std::pair<std::string, std::string> mistakes[] = {
      {"trian", "did you mean 'train'"},
      {"train", "--config"},
      {"train --config /nonexistent.toml --out x", "/nonexistent.toml"},
      {"train --config " + config + " --recipe bf61 --out x", "did you mean 'bf16'"},
      {"train --config " + config + " --set model.widht=3 --out x", "did you mean 'width'"},
      {"train --config " + config, "--out"},
      {"train --config " + config + " --set data.dir=/nowhere --out " + folder.path().string() + "/y", "/nowhere"},
      {"train --config " + config + " --resume --out " + folder.path().string() + "/z", "no checkpoint"},
      {"report " + folder.path().string(), folder.path().string()},
      {"train --config " + config + " --out " + std::string(300, 'x'), "File name too long"},
      {"report " + std::string(300, 'x'), "File name too long"},
      {"generate --model " + folder.path().string(), "holds no model"},
      {"generate --model " + folder.path().string() + " --device gpu", "must be cpu, cuda or auto"}};
  for (const auto& [arguments, expected] : mistakes) expect_mistake(arguments, expected);
}

TEST(Cli, PrintConfigShowsDefaultsAndOverrides) {
  TemporaryDirectory folder;
  const Output out = run("train --config " + write_config(folder, 2) + " --set optimizer.lr=0.25 --print-config");
  EXPECT_EQ(out.code, 0);
  EXPECT_NE(out.text.find("lr = 0.25\n"), std::string::npos);
  EXPECT_NE(out.text.find("warmup_fraction = 0.1\n"), std::string::npos);
}

TEST(Cli, ACorruptShardIsRefusedWithASentence) {
  TemporaryDirectory folder;
  const std::string config = write_config(folder, 2);
  const fs::path shard = folder.path() / "data" / "train-00000.bin";
  fs::resize_file(shard, fs::file_size(shard) - 2);
  const Output out = run("train --config " + config + " --out " + folder.path().string() + "/run");
  EXPECT_EQ(out.code, 2);
  EXPECT_NE(out.text.find("train-00000.bin"), std::string::npos) << out.text;
}

pid_t start_training(const std::string& config, const fs::path& out, bool resume) {
  const pid_t child = fork();
  if (child == 0) {
    if (std::freopen("/dev/null", "w", stderr) == nullptr || std::freopen("/dev/null", "w", stdout) == nullptr)
      _exit(9);
    const std::string recipe = std::string(NIBBLE_SOURCE_DIR) + "/tests/recipe/stochastic.toml";
    execl(kNibble.c_str(), "nibble", "train", "--config", config.c_str(), "--recipe", recipe.c_str(), "--out",
          out.c_str(), resume ? "--resume" : nullptr, nullptr);
    _exit(9);
  }
  return child;
}

std::string final_state(const fs::path& run) {
  const fs::path checkpoint = newest_checkpoint(run).value();
  std::string all;
  for (const char* file : {"model.safetensors", "optimizer.safetensors", "state.json"})
    all += read_file(checkpoint / file);
  std::istringstream in(read_file(run / "metrics.jsonl"));
  for (std::string line; std::getline(in, line);) {
    nlohmann::json json = nlohmann::json::parse(line);
    json.erase("tokens_per_second");
    all += json.dump();
  }
  return all;
}

// SIGKILL leaves no time to tidy up; whatever moment it strikes, the newest checkpoint loads and the run ends as if
// nothing had happened.
TEST(Cli, ARunKilledAtRandomMomentsEndsBitForBitLikeAnUninterruptedOne) {
  TemporaryDirectory folder;
  const std::string config = write_config(folder, 60);
  int status = 0;
  waitpid(start_training(config, folder.path() / "whole", false), &status, 0);
  ASSERT_EQ(WEXITSTATUS(status), 0);

  const fs::path parts = folder.path() / "parts";
  std::mt19937 rng(7);
  int kills = 0;
  for (bool complete = false; !complete;) {
    const bool resume = newest_checkpoint(parts).has_value();
    if (!resume) fs::remove_all(parts);
    const pid_t child = start_training(config, parts, resume);
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::milliseconds(60 + rng() % (100 + 60 * kills));
    for (;;) {
      if (waitpid(child, &status, WNOHANG) == child) {
        ASSERT_TRUE(WIFEXITED(status));
        ASSERT_EQ(WEXITSTATUS(status), 0);
        complete = true;
        break;
      }
      if (std::chrono::steady_clock::now() > deadline) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
        ++kills;
        break;
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(2));
    }
    ASSERT_LT(kills, 200);
  }
  EXPECT_GT(kills, 0);
  EXPECT_TRUE(final_state(folder.path() / "whole") == final_state(parts)) << "after " << kills << " kills";
}

TEST(Cli, ATerminatedRunSavesAndResumes) {
  TemporaryDirectory folder;
  const std::string config = write_config(folder, 60);
  const fs::path out = folder.path() / "run";
  const pid_t child = start_training(config, out, false);
  // The first line of metrics: a step is done, so there is something to save.
  std::error_code not_there_yet;
  for (std::uintmax_t size = 0; size == 0 || size == static_cast<std::uintmax_t>(-1);) {
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
    size = fs::file_size(out / "metrics.jsonl", not_there_yet);
  }
  kill(child, SIGTERM);
  int status = 0;
  waitpid(child, &status, 0);
  ASSERT_TRUE(WIFEXITED(status));
  if (WEXITSTATUS(status) == 0) GTEST_SKIP() << "the run was over before the signal";
  EXPECT_EQ(WEXITSTATUS(status), 130);
  const auto checkpoint = newest_checkpoint(out);
  ASSERT_TRUE(checkpoint.has_value());
  EXPECT_EQ(load_state(*checkpoint).step, final_figures(load_run(out)).steps);
  waitpid(start_training(config, out, true), &status, 0);
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(final_figures(load_run(out)).steps, 60);
}

}  // namespace
}  // namespace nibble
