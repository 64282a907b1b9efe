#include "nibble/eval/score_log.h"

#include <cerrno>
#include <nlohmann/json.hpp>

#include "nibble/io/file.h"
#include "nibble/io/json.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;

ScoreLog::ScoreLog(fs::path path, const std::string& fingerprint, std::int64_t passes) : path_(std::move(path)) {
  bool begun = false;
  if (fs::exists(path_)) {
    std::string text = read_file(path_);
    const std::size_t whole = text.rfind('\n') + 1;  // npos + 1 = 0: not even the first line is there
    const bool torn = whole != text.size();
    text.resize(whole);
    begun = !text.empty();
    if (begun) read(text, fingerprint);
    if (torn) fs::resize_file(path_, whole);
  }
  out_.open(path_, std::ios::app);
  if (!out_) file_error("write", path_, errno);
  if (!begun) out_ << nlohmann::json({{"fingerprint", fingerprint}, {"passes", passes}}).dump() << '\n' << std::flush;
}

void ScoreLog::read(const std::string& text, const std::string& fingerprint) {
  std::size_t line_number = 0;
  for (std::string_view rest = text; !rest.empty();) {
    const std::size_t end = rest.find('\n');
    const std::string where = fmt::format("{}:{}", path_.string(), ++line_number);
    const nlohmann::json line = parse_json(rest.substr(0, end), where);
    rest.remove_prefix(end + 1);
    try {
      if (line_number == 1) {
        if (line.at("fingerprint").get<std::string>() != fingerprint) {
          user_error(
              "'{}' holds scores of something else (another model, recipe, tokenizer, data, limit or batch): "
              "give another --out or remove it",
              path_.string());
        }
        continue;
      }
      std::vector<Score>& scores = done_[static_cast<std::size_t>(integer_at(line, "pass", where))];
      scores.clear();
      for (const nlohmann::json& score : line.at("scores")) {
        scores.push_back({score.at(0).get<double>(), score.at(1).get<bool>()});
      }
    } catch (const nlohmann::json::exception&) {
      user_error("{}: this is no line of a log of scores: remove the file", where);
    }
  }
}

const std::vector<Score>* ScoreLog::find(std::size_t pass) const {
  const auto found = done_.find(pass);
  return found == done_.end() ? nullptr : &found->second;
}

void ScoreLog::append(std::size_t pass, std::vector<Score> scores) {
  if (!path_.empty()) {
    nlohmann::json line = {{"pass", pass}, {"scores", nlohmann::json::array()}};
    for (const Score& score : scores) line["scores"].push_back({score.log_likelihood, score.greedy});
    out_ << line.dump() + "\n" << std::flush;
    if (!out_) user_error("cannot write '{}': is the disk full?", path_.string());
  }
  done_[pass] = std::move(scores);
}

}  // namespace nibble
