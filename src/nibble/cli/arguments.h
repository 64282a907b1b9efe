// Command-line options of one subcommand; a thin face over CLI11, whose header is heavy and stays in one file.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

namespace nibble {

class Arguments {
 public:
  struct State;  // CLI11's objects
  explicit Arguments(State& state) : state_(state) {}

  /// `name` as CLI11 takes it: "--out", "-o,--out", or "name" for a positional argument. The value of `target` when
  /// this is called is the default; `required` options have none.
  void text(const std::string& name, std::string& target, const std::string& help, bool required = false);
  void path(const std::string& name, std::filesystem::path& target, const std::string& help, bool required = false);
  void texts(const std::string& name, std::vector<std::string>& target, const std::string& help, bool required = false);
  /// Values separated by commas.
  void list(const std::string& name, std::vector<std::string>& target, const std::string& help, bool required = false);
  void integer(const std::string& name, std::int64_t& target, const std::string& help, bool required = false);
  void number(const std::string& name, double& target, const std::string& help);
  void flag(const std::string& name, bool& target, const std::string& help);

 private:
  State& state_;
};

/// A subcommand: declares its options, then runs.
class Command {
 public:
  virtual ~Command() = default;
  virtual std::string name() const = 0;      ///< "train", or "tokenizer train" for one of a group
  virtual std::string summary() const = 0;   ///< one line
  virtual std::string examples() const = 0;  ///< command lines, one a line
  virtual void declare(Arguments& arguments) = 0;
  /// Returns the exit code.
  virtual int run() = 0;
};

/// All subcommands, one file each: cli/<command>.cpp.
std::unique_ptr<Command> make_train_command();
std::unique_ptr<Command> make_compare_command();
std::unique_ptr<Command> make_generate_command();
std::unique_ptr<Command> make_eval_command();
std::unique_ptr<Command> make_report_command();
std::unique_ptr<Command> make_data_prepare_command();
std::unique_ptr<Command> make_tokenizer_train_command();
std::unique_ptr<Command> make_tokenizer_encode_command();
std::unique_ptr<Command> make_tokenizer_decode_command();
std::unique_ptr<Command> make_scaling_fit_command();
std::unique_ptr<Command> make_scaling_predict_command();
std::unique_ptr<Command> make_scaling_map_command();
std::unique_ptr<Command> make_recipes_list_command();
std::unique_ptr<Command> make_recipes_show_command();
std::unique_ptr<Command> make_recipes_diff_command();
std::unique_ptr<Command> make_recipes_check_command();
std::unique_ptr<Command> make_cost_command();
std::unique_ptr<Command> make_inspect_command();
std::unique_ptr<Command> make_league_command();
std::unique_ptr<Command> make_doctor_command();
std::unique_ptr<Command> make_import_command();
std::unique_ptr<Command> make_export_command();

/// Parses and runs. 0 = done, 1 = a failure of ours, 2 = a user's mistake (one sentence on standard error), 3 =
/// stopped by an alarm, 130 = stopped by a signal, both with everything saved.
int run_cli(int argc, char** argv);

}  // namespace nibble
