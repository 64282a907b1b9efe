// What `nibble scaling` reads. The first byte says what the others are: a law, or a table as CSV, TSV or JSON.
#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"
#include "nibble/scaling/law_file.h"
#include "nibble/scaling/points.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  if (bytes.empty()) return;
  const std::string text(bytes.substr(1));
  const int choice = bytes.front() % 4;
  if (choice == 0) {
    const std::string written = law_to_toml(parse_law(text, "input.toml"));
    const ScalingFit again = must_succeed([&] { return parse_law(written, "written.toml"); });
    check(law_to_toml(again) == written, "a law comes back as it was written");
    return;
  }
  static const InputFolder folder;
  const std::string name = choice == 1 ? "table.csv" : choice == 2 ? "table.tsv" : "table.json";
  folder.write(name, text);
  for (const LossPoint& point :
       read_loss_points({folder.path() / name}, [](const std::string&) { return 1e6; }).points) {
    check(point.params > 0 && point.tokens > 0 && point.loss > 0, "figures are positive");
  }
}

}  // namespace nibble::fuzz
