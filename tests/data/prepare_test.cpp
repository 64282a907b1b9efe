#include "nibble/data/prepare.h"

#include <omp.h>

#include <cmath>
#include <map>
#include <nlohmann/json.hpp>
#include <set>

#include "nibble/data/chat_record.h"
#include "nibble/data/loader.h"
#include "nibble/io/json.h"
#include "tests/data/compress.h"
#include "tests/data/english.h"

namespace nibble {
namespace {

namespace fs = std::filesystem;

/// Options for the inputs a.txt.zst (40 documents) and b.jsonl.gz (20 others), in `dir`.
PrepareOptions sample_options(const TemporaryDirectory& dir) {
  const auto documents = english_documents(60);
  std::string lines;
  for (std::size_t i = 40; i < documents.size(); ++i) lines += nlohmann::json{{"text", documents[i]}}.dump() + "\n";
  small_tokenizer().save(dir / "small.model");
  PrepareOptions options;
  options.inputs = {dir.write("a.txt.zst", zstd(joined({documents.begin(), documents.begin() + 40}))),
                    dir.write("b.jsonl.gz", gzip(lines))};
  options.tokenizer = dir / "small.model";
  options.output = dir / "set";
  return options;
}

std::vector<std::int32_t> tokens_of(const ShardSet& set) {
  std::vector<std::int32_t> tokens(static_cast<std::size_t>(set.tokens()));
  set.copy(0, tokens);
  return tokens;
}

std::map<std::string, std::string> content_of(const fs::path& directory) {
  std::map<std::string, std::string> files;
  for (const auto& entry : fs::directory_iterator(directory)) {
    files[entry.path().filename()] = read_file(entry.path());
  }
  return files;
}

TEST(PrepareDataset, WritesTheDocumentsInOrderEachWithEos) {
  const TemporaryDirectory dir;
  const PrepareOptions options = sample_options(dir);
  const DatasetMeta meta = prepare_dataset(options);
  std::vector<std::int32_t> expected;
  std::size_t bytes = 0;
  for (const std::string& document : english_documents(60)) {
    small_tokenizer().encode_document(document, expected);
    bytes += document.size();
  }
  const ShardSet train = ShardSet::open(options.output, "train");
  train.verify();
  EXPECT_EQ(tokens_of(train), expected);
  EXPECT_EQ(meta.train.documents, 60);
  EXPECT_EQ(meta.train.tokens, static_cast<std::int64_t>(expected.size()));
  EXPECT_EQ(meta.train.bytes, static_cast<std::int64_t>(bytes));
  EXPECT_EQ(meta.train.shards, std::vector<std::string>{"train-00000.bin"});
  EXPECT_EQ(Tokenizer::load(options.output).hash(), train.tokenizer_hash());
  EXPECT_EQ(Loader(ShardSet::open(options.output, "train"), 64, LoaderOrder::Shuffled).count(),
            (meta.train.tokens - 1) / 64);
}

TEST(PrepareDataset, MetaJsonHoldsWhatItReturns) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  options.valid_fraction = 0.2;
  const DatasetMeta meta = prepare_dataset(options);
  const auto json = read_json(options.output / "meta.json");
  EXPECT_EQ(json.at("format"), "nibble-dataset-1");
  EXPECT_EQ(json.at("vocab_size"), 420);
  EXPECT_EQ(json.at("train").at("tokens"), meta.train.tokens);
  EXPECT_EQ(json.at("valid").at("shards").at(0), "valid.bin");
  const DatasetMeta read = read_dataset_meta(options.output);
  EXPECT_EQ(read.tokenizer_hash, small_tokenizer().hash());
  EXPECT_EQ(read.valid.documents, meta.valid.documents);
  EXPECT_EQ(read.train.bytes, meta.train.bytes);
  EXPECT_EQ(read.train.shards, meta.train.shards);
}

TEST(PrepareDataset, CutsShardsAtExactlyTheLimit) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  prepare_dataset(options);
  const auto whole = tokens_of(ShardSet::open(options.output, "train"));
  options.output = dir / "cut";
  options.shard_tokens = 1000;
  const DatasetMeta meta = prepare_dataset(options);
  ASSERT_EQ(meta.train.shards.size(), (whole.size() + 999) / 1000);
  for (std::size_t i = 0; i + 1 < meta.train.shards.size(); ++i) {
    EXPECT_EQ(Shard(options.output / meta.train.shards[i]).tokens(), 1000);
  }
  EXPECT_EQ(tokens_of(ShardSet::open(options.output, "train")), whole);
}

/// By one thread and by three.
void expect_same_files_for_any_number_of_threads(const TemporaryDirectory& dir, PrepareOptions options) {
  const int before = omp_get_max_threads();
  omp_set_num_threads(1);
  prepare_dataset(options);
  const auto one = content_of(options.output);
  omp_set_num_threads(3);
  options.output = dir / "three";
  prepare_dataset(options);
  omp_set_num_threads(before);
  EXPECT_EQ(content_of(options.output), one);
}

TEST(PrepareDataset, GivesTheSameFilesForAnyNumberOfThreads) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  options.valid_fraction = 0.1;
  options.shard_tokens = 3000;
  expect_same_files_for_any_number_of_threads(dir, options);
}

TEST(PrepareDataset, TheValidationFractionFollowsTheTextAlone) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  options.valid_fraction = 0.25;
  const DatasetMeta meta = prepare_dataset(options);
  EXPECT_GT(meta.valid.documents, 3);
  EXPECT_LT(meta.valid.documents, 30);
  EXPECT_EQ(meta.train.documents + meta.valid.documents, 60);
  std::swap(options.inputs[0], options.inputs[1]);
  options.inputs.push_back(options.inputs[0]);
  options.output = dir / "other";
  const DatasetMeta other = prepare_dataset(options);  // other order, some documents twice
  EXPECT_EQ(other.train.documents + other.valid.documents, 80);
  const auto documents_of = [&](const fs::path& set, const char* split) {
    std::set<std::vector<std::int32_t>> documents;
    std::vector<std::int32_t> document;
    for (const std::int32_t token : tokens_of(ShardSet::open(set, split))) {
      document.push_back(token);
      if (token == small_tokenizer().eos_id()) documents.insert(std::exchange(document, {}));
    }
    return documents;
  };
  for (const char* split : {"train", "valid"}) {
    EXPECT_EQ(documents_of(dir / "other", split), documents_of(dir / "set", split)) << split;
  }
}

TEST(PrepareDataset, TakesExplicitValidationInputs) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  options.valid_inputs = {options.inputs[1]};
  options.inputs.pop_back();
  const DatasetMeta meta = prepare_dataset(options);
  EXPECT_EQ(meta.train.documents, 40);
  EXPECT_EQ(meta.valid.documents, 20);
  std::vector<std::int32_t> expected;
  const auto documents = english_documents(60);
  for (std::size_t i = 40; i < 60; ++i) small_tokenizer().encode_document(documents[i], expected);
  EXPECT_EQ(tokens_of(ShardSet::open(options.output, "valid")), expected);
}

TEST(PrepareDataset, ReportsProgressUpToTheTotal) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  std::vector<PrepareProgress> seen;
  options.progress = [&](const PrepareProgress& progress) { seen.push_back(progress); };
  const DatasetMeta meta = prepare_dataset(options);
  ASSERT_FALSE(seen.empty());
  EXPECT_EQ(seen.back().file_bytes_done, seen.back().file_bytes_total);
  EXPECT_EQ(seen.back().file_bytes_total, fs::file_size(options.inputs[0]) + fs::file_size(options.inputs[1]));
  EXPECT_EQ(seen.back().tokens, meta.train.tokens);
  EXPECT_EQ(seen.back().documents, 60);
}

TEST(PrepareDataset, AnInterruptedRunLeavesNothing) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  options.shard_tokens = 500;
  options.progress = [](const PrepareProgress&) { throw std::runtime_error("interrupted"); };
  const auto before = dir.names();
  EXPECT_THROW(prepare_dataset(options), std::runtime_error);
  EXPECT_EQ(dir.names(), before);
  options.progress = nullptr;
  options.inputs.push_back(dir.write("cut.gz", gzip("some text").substr(0, 15)));
  const auto now = dir.names();
  EXPECT_USER_ERROR(prepare_dataset(options), "cut.gz' is truncated");
  EXPECT_EQ(dir.names(), now);
}

TEST(PrepareDataset, ReplacesOnlyADataSetAndOnlyWhenAsked) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  prepare_dataset(options);
  EXPECT_USER_ERROR(prepare_dataset(options), "exists and is not empty");
  options.replace = true;
  options.inputs.pop_back();
  EXPECT_EQ(prepare_dataset(options).train.documents, 40);
  EXPECT_EQ(read_dataset_meta(options.output).train.documents, 40);
  make_directories(dir / "home");
  dir.write("home/precious", "p");
  options.output = dir / "home";
  EXPECT_USER_ERROR(prepare_dataset(options), "is not a prepared data set");
  EXPECT_EQ(read_file(dir / "home/precious"), "p");
}

/// Prompts and completions out of the sample documents, in two files, and options for them.
PrepareOptions chat_options(const TemporaryDirectory& dir) {
  std::string lines[2];
  int number = 0;
  for (const std::string& document : english_documents(60)) {
    const std::size_t cut = document.find(' ', document.size() / 3);
    lines[number++ % 2] +=
        nlohmann::json{{"prompt", document.substr(0, cut)}, {"completion", document.substr(cut)}}.dump() + "\n";
  }
  small_tokenizer().save(dir / "small.model");
  PrepareOptions options;
  options.inputs = {dir.write("a.jsonl.zst", zstd(lines[0])), dir.write("b.gz", gzip(lines[1]))};
  options.tokenizer = dir / "small.model";
  options.output = dir / "set";
  options.chat = true;
  return options;
}

TEST(PrepareChat, WritesTheRecordsInOrderWithTheirMask) {
  const TemporaryDirectory dir;
  PrepareOptions options = chat_options(dir);
  options.shard_tokens = 1000;
  const DatasetMeta meta = prepare_dataset(options);
  const ShardSet train = ShardSet::open(options.output, "train");
  train.verify();
  EXPECT_TRUE(train.masked());
  MaskedTokens expected;
  const ChatEncoder encoder(small_tokenizer(), "");
  for (const int parity : {0, 1}) {
    int number = 0;
    for (const std::string& document : english_documents(60)) {
      const std::size_t cut = document.find(' ', document.size() / 3);
      if (number++ % 2 == parity) encoder.encode({document.substr(0, cut), document.substr(cut), {}}, "", expected);
    }
  }
  EXPECT_EQ(tokens_of(train), expected.ids);
  std::vector<std::uint8_t> counted(expected.ids.size());
  train.copy_counted(0, counted);
  EXPECT_EQ(counted, expected.counted);
  EXPECT_EQ(meta.train.counted, std::count(counted.begin(), counted.end(), 1));
  EXPECT_EQ(train.counted(), meta.train.counted);
  EXPECT_GT(meta.train.counted, meta.train.tokens / 2);
  EXPECT_LT(meta.train.counted, meta.train.tokens * 4 / 5);
  EXPECT_EQ(expected.cut_borders, 0);
}

TEST(PrepareChat, MetaJsonSaysSo) {
  const TemporaryDirectory dir;
  PrepareOptions options = chat_options(dir);
  options.valid_fraction = 0.2;
  const DatasetMeta meta = prepare_dataset(options);
  EXPECT_GT(meta.valid.counted, 0);
  const auto json = read_json(options.output / "meta.json");
  EXPECT_EQ(json.at("format"), "nibble-dataset-2");
  EXPECT_EQ(json.at("train").at("counted_tokens"), meta.train.counted);
  EXPECT_FALSE(json.contains("chat_template"));
  const DatasetMeta read = read_dataset_meta(options.output);
  EXPECT_TRUE(read.masked);
  EXPECT_EQ(read.valid.counted, meta.valid.counted);
  EXPECT_TRUE(ShardSet::open(options.output, "valid").masked());
}

TEST(PrepareChat, GivesTheSameFilesForAnyNumberOfThreads) {
  const TemporaryDirectory dir;
  PrepareOptions options = chat_options(dir);
  options.valid_fraction = 0.1;
  expect_same_files_for_any_number_of_threads(dir, options);
}

TEST(PrepareChat, MessagesTakeTheTemplateThatIsNamed) {
  const TemporaryDirectory dir;
  PrepareOptions options = chat_options(dir);
  const std::string record =
      R"({"messages": [{"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Alice."}]})";
  options.inputs = {dir.write("m.jsonl", record + "\n\n" + record + "\n")};
  options.chat_template = std::string(NIBBLE_SOURCE_DIR) + "/chat_templates/llama2.toml";
  EXPECT_EQ(prepare_dataset(options).train.documents, 2);
  EXPECT_EQ(read_dataset_meta(options.output).chat_template, "llama2");
}

TEST(PrepareChat, NamesTheFirstRecordThatIsRefused) {
  const TemporaryDirectory dir;
  PrepareOptions options = chat_options(dir);
  std::string lines;
  for (int i = 0; i < 300; ++i) lines += "{\"prompt\": \"a\", \"completion\": \"b\"}\n\n";
  const std::string good = dir.write("good.jsonl", lines);
  for (int i = 0; i < 300; ++i) lines += "{\"prompt\": \"a\"}\n";
  options.inputs = {good, dir.write("bad.jsonl.gz", gzip(lines))};
  for (int round = 0; round < 5; ++round) {
    EXPECT_USER_ERROR(prepare_dataset(options), "bad.jsonl.gz:601: the object has no 'completion'");
    EXPECT_FALSE(fs::exists(options.output));
  }
  options = sample_options(dir);
  options.chat_template = "chatml";
  EXPECT_USER_ERROR(prepare_dataset(options), "--chat");
}

TEST(PrepareDataset, RefusesWrongOptions) {
  const TemporaryDirectory dir;
  const PrepareOptions good = sample_options(dir);
  const auto refused = [&](const std::string& fragment, auto&& edit) {
    PrepareOptions options = good;
    edit(options);
    EXPECT_USER_ERROR(prepare_dataset(options), fragment);
    EXPECT_FALSE(fs::exists(good.output));
  };
  refused("is not in [0, 1)", [](auto& o) { o.valid_fraction = 1; });
  refused("is not in [0, 1)", [](auto& o) { o.valid_fraction = -0.1; });
  refused("is not in [0, 1)", [](auto& o) { o.valid_fraction = std::nan(""); });
  refused("not both", [](auto& o) { o.valid_fraction = 0.1, o.valid_inputs = o.inputs; });
  refused("cannot hold 0 tokens", [](auto& o) { o.shard_tokens = 0; });
  refused("cannot be both", [](auto& o) { o.inputs = {"-"}, o.valid_inputs = {"-"}; });
  refused("no input", [](auto& o) { o.inputs.clear(); });
  refused("No such file", [](auto& o) { o.tokenizer += ".none"; });
}

TEST(PrepareDataset, RefusesAnEmptySplit) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  options.inputs = {dir.write("blank.txt", "\n\n")};
  EXPECT_USER_ERROR(prepare_dataset(options), "no document for training");
  options.inputs = {dir.write("one.txt", "one document")};
  options.valid_fraction = 1e-9;
  EXPECT_USER_ERROR(prepare_dataset(options), "none of the 1 documents fell into the validation split");
}

TEST(Dataset, RefusesADirectoryThatIsNone) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(ShardSet::open(dir.path(), "train"), "is not a prepared data set");
  dir.write("meta.json", "{}");
  EXPECT_USER_ERROR(read_dataset_meta(dir.path()), "lacks a field");
  dir.write("meta.json", R"({"format": "nibble-dataset-9"})");
  EXPECT_USER_ERROR(read_dataset_meta(dir.path()), "has the format \"nibble-dataset-9\"");
  dir.write("meta.json", R"({"format": "nibble-dataset-1", "vocab_size": 5, "tokenizer_xxh3": "xyz"})");
  EXPECT_USER_ERROR(read_dataset_meta(dir.path()), "malformed tokenizer_xxh3");
}

TEST(Dataset, NoticesThatAShardIsMissingOrNotItsOwn) {
  const TemporaryDirectory dir;
  PrepareOptions options = sample_options(dir);
  options.shard_tokens = 2000;
  prepare_dataset(options);
  EXPECT_USER_ERROR(ShardSet::open(options.output, "valid"), "has no valid split");
  fs::copy_file(options.output / "train-00000.bin", dir / "kept.bin");
  ShardWriter(options.output / "train-00000.bin", 420, small_tokenizer().hash()).commit();
  EXPECT_USER_ERROR(ShardSet::open(options.output, "train"), "are not those that its meta.json describes");
  fs::remove(options.output / "train-00000.bin");
  EXPECT_USER_ERROR(ShardSet::open(options.output, "train"), "train-00000.bin': No such file");
}

}  // namespace
}  // namespace nibble
