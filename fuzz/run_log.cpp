// The folder of a run and of a comparison with it: RUN.JSON cut METRICS.JSONL cut COMPARE.JSON.
#include "nibble/io/run_log.h"

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/report/html.h"
#include "nibble/report/runs.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  static const InputFolder folder;
  const auto [run, rest] = cut(bytes);
  const auto [metrics, compare] = cut(rest);
  folder.write("run.json", run);
  folder.write("metrics.jsonl", metrics);
  const RunLog log = load_run(folder.path());
  final_figures(log);
  static const InputFolder comparison;
  comparison.write("compare.json", compare);
  if (!compare.empty()) load_compare(comparison.path());
  report_page(load_comparison({folder.path()}));
}

}  // namespace nibble::fuzz
