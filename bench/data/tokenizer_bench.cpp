// Encoding of documents as 'nibble data prepare' does it: in parallel, each thread with a cache of words that is empty
// at the beginning. Rates are bytes of UTF-8. By default the fixtures' small vocabularies on the project's own
// documentation; NIBBLE_BENCH_TOKENIZER names another tokenizer, NIBBLE_BENCH_TEXT a text whose documents end with
// <|endoftext|> lines.
#include <benchmark/benchmark.h>
#include <omp.h>

#include <cstdlib>
#include <filesystem>

#include "bench/threads.h"
#include "nibble/data/text_reader.h"
#include "nibble/data/tokenizer.h"
#include "nibble/tensor/parallel.h"

namespace nibble {
namespace {

std::string setting(const char* name, const std::string& otherwise) {
  const char* value = std::getenv(name);
  return value == nullptr ? otherwise : value;
}

const std::vector<std::string>& documents() {
  static const std::vector<std::string> all = [] {
    ReaderOptions options;
    options.format = InputFormat::Text;
    const std::string text = setting("NIBBLE_BENCH_TEXT", std::string(NIBBLE_SOURCE_DIR) + "/docs/*.md");
    TextReader reader({text}, options);
    std::vector<std::string> read;
    for (std::string document; reader.next(document);) read.push_back(document);
    return read;
  }();
  return all;
}

void encode_bench(benchmark::State& state, const std::string& fixture) {
  const std::filesystem::path fixtures = std::filesystem::path(NIBBLE_SOURCE_DIR) / "tests/data/fixtures";
  const Tokenizer tokenizer = Tokenizer::load(setting("NIBBLE_BENCH_TOKENIZER", (fixtures / fixture).string()));
  const bench::Threads threads(state.range(0));
  std::size_t bytes = 0;
  for (const std::string& document : documents()) bytes += document.size();
  for (auto _ : state) {
    std::vector<WordCache> caches(static_cast<std::size_t>(omp_get_max_threads()));
    parallel_for(static_cast<std::int64_t>(documents().size()), 1, [&](std::int64_t i, std::int64_t) {
      std::vector<std::int32_t> ids;
      tokenizer.encode_document(documents()[static_cast<std::size_t>(i)], ids,
                                &caches[static_cast<std::size_t>(omp_get_thread_num())]);
      benchmark::DoNotOptimize(ids.data());
    });
  }
  state.SetBytesProcessed(static_cast<std::int64_t>(bytes) * state.iterations());
}

/// Threads; wall time, and the processor time of all threads.
void arguments(benchmark::internal::Benchmark* bench) {
  bench->Arg(1)->Arg(2)->MeasureProcessCPUTime()->UseRealTime()->Unit(benchmark::kMillisecond);
}

BENCHMARK_CAPTURE(encode_bench, gpt2, "gpt2")->Apply(arguments);
BENCHMARK_CAPTURE(encode_bench, llama3, "llama3")->Apply(arguments);
BENCHMARK_CAPTURE(encode_bench, qwen, "qwen")->Apply(arguments);
BENCHMARK_CAPTURE(encode_bench, llama2, "llama2")->Apply(arguments);

}  // namespace
}  // namespace nibble
