// Models of the Hugging Face tools through the program.
#include <fstream>

#include "tests/cli/program.h"
#include "tests/train/small_run.h"

namespace nibble {
namespace {

TEST(CliImport, AModelComesInIsTrainedAndGoesOut) {
  const TemporaryDirectory dir;
  const std::string fixture = "tests/fixtures/hf/qwen3";
  const std::string at = dir.path().string();
  const Output in = run("import --from " + fixture + " --out " + at + "/run");
  EXPECT_EQ(in.code, 0) << in.text;
  EXPECT_NE(in.text.find("qwen3: 27872 parameters"), std::string::npos) << in.text;
  std::ofstream(at + "/c.toml") << "[data]\ndir = \"" << write_small_data(dir.path()).string()
                                << "\"\n[train]\nsteps = 2\nbatch = 2\n[model]\nseq = 16\n";
  const Output trained =
      run("train --config " + at + "/c.toml --init " + fixture + " --recipe nvfp4 --out " + at + "/tuned");
  EXPECT_EQ(trained.code, 0) << trained.text;
  EXPECT_NE(trained.text.find("begins with the weights of " + fixture), std::string::npos) << trained.text;
  for (const std::string from : {"run", "tuned"}) {
    const Output out = run("export --format hf --checkpoint " + at + "/" + from + " --dtype bf16 --shard-bytes 20000" +
                           " --out " + at + "/" + from + "-hf");
    EXPECT_EQ(out.code, 0) << out.text;
    EXPECT_TRUE(std::filesystem::exists(at + "/" + from + "-hf/model.safetensors.index.json"));
    EXPECT_TRUE(std::filesystem::exists(at + "/" + from + "-hf/config.json"));
  }
  expect_mistake("import --from " + fixture + " --out " + at + "/run", "holds checkpoints already");
  expect_mistake("import --from " + at + " --out " + at + "/other", "config.json");
  expect_mistake("export --format onnx --checkpoint " + at + "/run --out " + at + "/g",
                 "the format 'onnx' is not hf, nvfp4, mxfp4 or gguf");
  expect_mistake("export --format gguf --checkpoint " + at + "/run --out " + at + "/g", "holds neither tokenizer.json");
  expect_mistake("export --dtype f8 --checkpoint " + at + "/run --out " + at + "/g", "'f8' is not f32 or bf16");
  expect_mistake("export --checkpoint " + at + "/none --out " + at + "/g", "no checkpoint");
  expect_mistake("export --checkpoint " + at + "/run --out " + at + "/run-hf", "run-hf");
}

TEST(CliImport, AGgufFileBecomesACheckpointOrAFolder) {
  const TemporaryDirectory dir;
  const std::string at = dir.path().string();
  const std::string fixture = "tests/fixtures/gguf/qwen3.gguf";
  const Output in = run("import --from " + fixture + " --out " + at + "/run");
  EXPECT_EQ(in.code, 0) << in.text;
  EXPECT_NE(in.text.find("qwen3: 27872 parameters"), std::string::npos) << in.text;
  const Output out = run("import --from " + fixture + " --format hf --dtype bf16 --out " + at + "/hf");
  EXPECT_EQ(out.code, 0) << out.text;
  EXPECT_TRUE(std::filesystem::exists(at + "/hf/model.safetensors"));
  expect_mistake("import --from " + fixture + " --out " + at + "/run", "holds checkpoints already");
  expect_mistake("import --from " + fixture + " --format hf --out " + at + "/hf", "/hf");
  expect_mistake("import --from " + fixture + " --format onnx --out " + at + "/x", "'onnx' is not checkpoint or hf");
  expect_mistake("import --from " + fixture + " --format hf --seq 9 --out " + at + "/x", "--seq is for a checkpoint");
  expect_mistake("import --from " + fixture + " --dtype bf16 --out " + at + "/x", "--dtype bf16 is for --format hf");
  expect_mistake("import --from " + fixture + " --format hf --dtype f8 --out " + at + "/x", "'f8' is not f32 or bf16");
  expect_mistake("import --from README.md --out " + at + "/x", "does not begin with 'GGUF'");
}

}  // namespace
}  // namespace nibble
