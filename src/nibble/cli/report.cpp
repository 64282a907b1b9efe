#include "nibble/cli/arguments.h"
#include "nibble/report/html.h"
#include "nibble/report/table.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

class ReportCommand final : public Command {
 public:
  std::string name() const override { return "report"; }
  std::string summary() const override { return "rebuild the page and the table from the logs of any runs"; }
  std::string examples() const override {
    return "  nibble report runs/demo\n"
           "  nibble report runs/a runs/b runs/c --out three.html";
  }
  void declare(Arguments& a) override {
    a.texts("dirs", dirs_, "run folders, or the folder of a comparison", true);
    a.path("--out", out_, "the page; by default report.html in the first folder");
  }
  int run() override {
    const std::vector<std::filesystem::path> dirs(dirs_.begin(), dirs_.end());
    const std::filesystem::path page = out_.empty() ? dirs.front() / "report.html" : out_;
    write_report(dirs, page);
    fmt::print("{}\nreport: {}\n", format_compare_table(load_comparison(dirs)), page.string());
    return 0;
  }

 private:
  std::vector<std::string> dirs_;
  std::filesystem::path out_;
};

}  // namespace

std::unique_ptr<Command> make_report_command() { return std::make_unique<ReportCommand>(); }

}  // namespace nibble
