#include "nibble/cli/arguments.h"

#include <CLI/CLI.hpp>
#include <cstdio>
#include <filesystem>
#include <map>

#include "nibble/cli/launcher.h"
#include "nibble/dist/launch.h"
#include "nibble/io/suggest.h"
#include "nibble/tensor/error.h"
#include "nibble/train/trainer.h"

namespace nibble {

struct Arguments::State {
  CLI::App* app;
};

namespace {

void finish(CLI::Option* option, bool required) {
  if (required) {
    option->required();
  } else {
    option->capture_default_str();
  }
}

}  // namespace

void Arguments::text(const std::string& name, std::string& target, const std::string& help, bool required) {
  finish(state_.app->add_option(name, target, help)->type_name("TEXT"), required);
}
void Arguments::path(const std::string& name, std::filesystem::path& target, const std::string& help, bool required) {
  finish(state_.app
             ->add_option_function<std::string>(
                 name, [&target](const std::string& value) { target = value; }, help)
             ->type_name("PATH")
             ->default_str(target.string()),
         required);
}
void Arguments::texts(const std::string& name, std::vector<std::string>& target, const std::string& help,
                      bool required) {
  finish(state_.app->add_option(name, target, help)->type_name("TEXT"), required);
}
void Arguments::list(const std::string& name, std::vector<std::string>& target, const std::string& help,
                     bool required) {
  finish(state_.app->add_option(name, target, help)->type_name("A,B,...")->delimiter(','), required);
}
void Arguments::integer(const std::string& name, std::int64_t& target, const std::string& help, bool required) {
  finish(state_.app->add_option(name, target, help)->type_name("N"), required);
}
void Arguments::number(const std::string& name, double& target, const std::string& help) {
  finish(state_.app->add_option(name, target, help)->type_name("X"), false);
}
void Arguments::flag(const std::string& name, bool& target, const std::string& help) {
  state_.app->add_flag(name, target, help);
}

namespace {

/// Commands of two words are groups.
const std::map<std::string, std::string>& group_summaries() {
  static const std::map<std::string, std::string> summaries = {
      {"data", "prepare training data"},
      {"tokenizer", "train and use a tokenizer"},
      {"recipes", "list, show, compare and check recipes"},
      {"scaling", "fit a scaling law to runs, and predict from it"}};
  return summaries;
}

constexpr const char* kTitle = "nibble: pre-train large language models with 4-bit floating-point matrix products";

std::vector<std::unique_ptr<Command>> all_commands() {
  std::vector<std::unique_ptr<Command>> commands;
  commands.push_back(make_train_command());
  commands.push_back(make_compare_command());
  commands.push_back(make_report_command());
  commands.push_back(make_generate_command());
  commands.push_back(make_eval_command());
  commands.push_back(make_import_command());
  commands.push_back(make_export_command());
  commands.push_back(make_data_prepare_command());
  commands.push_back(make_tokenizer_train_command());
  commands.push_back(make_tokenizer_encode_command());
  commands.push_back(make_tokenizer_decode_command());
  commands.push_back(make_scaling_fit_command());
  commands.push_back(make_scaling_predict_command());
  commands.push_back(make_scaling_map_command());
  commands.push_back(make_recipes_list_command());
  commands.push_back(make_recipes_show_command());
  commands.push_back(make_recipes_diff_command());
  commands.push_back(make_recipes_check_command());
  commands.push_back(make_cost_command());
  commands.push_back(make_inspect_command());
  commands.push_back(make_league_command());
  commands.push_back(make_doctor_command());
  return commands;
}

/// A word that is no subcommand gets the nearest one.
void check_subcommand_names(int argc, char** argv, const std::map<std::string, std::vector<std::string>>& known) {
  std::string group;
  for (int i = 1; i < argc && i < 3; ++i) {
    const std::string word = argv[i];
    if (word.starts_with("-")) return;
    const auto level = known.find(group);
    if (level == known.end()) return;
    const auto& names = level->second;
    if (std::find(names.begin(), names.end(), word) == names.end()) {
      user_error("there is no command '{}{}'{} ('nibble help' lists all)", group.empty() ? "" : group + " ", word,
                 did_you_mean(word, names));
    }
    group = word;
  }
}

int parse_and_run(int argc, char** argv) {
  CLI::App app(kTitle, "nibble");
  app.require_subcommand(1);
  app.set_version_flag("--version", "nibble " NIBBLE_VERSION);
  app.footer("Every command has its own help with examples: nibble COMMAND --help");
  std::vector<std::unique_ptr<Command>> commands = all_commands();
  std::map<std::string, CLI::App*> groups;
  std::map<std::string, std::vector<std::string>> known;
  std::vector<std::unique_ptr<Arguments::State>> states;
  std::vector<CLI::App*> apps;
  for (const auto& command : commands) {
    std::string leaf = command->name();
    CLI::App* parent = &app;
    std::string group;
    if (const auto space = leaf.find(' '); space != std::string::npos) {
      group = leaf.substr(0, space);
      leaf = leaf.substr(space + 1);
      CLI::App*& entry = groups[group];
      if (entry == nullptr) {
        entry = app.add_subcommand(group, group_summaries().at(group));
        entry->require_subcommand(1);
        known[""].push_back(group);
      }
      parent = entry;
    }
    CLI::App* sub = parent->add_subcommand(leaf, command->summary());
    sub->footer("Examples:\n" + command->examples());
    known[group].push_back(leaf);
    states.push_back(std::make_unique<Arguments::State>(Arguments::State{sub}));
    Arguments arguments(*states.back());
    command->declare(arguments);
    apps.push_back(sub);
  }
  known[""].push_back("help");
  app.add_subcommand("help", "list the commands");
  if (argc <= 1 || std::string(argv[1]) == "help") {
    std::fputs(app.help().c_str(), stdout);
    return 0;
  }
  check_subcommand_names(argc, argv, known);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& e) {  // --help, --version
    return app.exit(e);
  } catch (const CLI::ParseError& e) {
    user_error("{}; see 'nibble {} --help'", std::string(e.what()), argv[1]);
  }
  for (std::size_t i = 0; i < apps.size(); ++i) {
    if (apps[i]->parsed()) return commands[i]->run();
  }
  return 1;
}

int end_with(const std::string& sentence, int code) {
  say_error(sentence, code);
  return code;
}

}  // namespace

int run_cli(int argc, char** argv) {
  try {
    return parse_and_run(argc, argv);
  } catch (const UserError& e) {
    return end_with(e.what(), 2);
  } catch (const AlarmStop& e) {
    return end_with(e.what(), kStoppedByAlarm);
  } catch (const std::filesystem::filesystem_error& e) {  // a name that is too long, a disk that is full
    return end_with(fmt::format("'{}': {}", e.path1().string(), e.code().message()), 2);
  } catch (const std::exception& e) {
    return end_with(fmt::format("internal error: {}", e.what()), 1);
  }
}

}  // namespace nibble
