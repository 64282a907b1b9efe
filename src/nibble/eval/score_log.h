// Scores of a task on disk while it runs, so that a run that was killed goes on where it was.
//
//   {"fingerprint":"91fd0c8ab3f02d77","passes":412}      what is scored, and how
//   {"pass":0,"scores":[[-12.5,true],[-14.25,false]]}    a line a pass, appended when it is done
//
// Log-likelihoods are written so that they are read back as the same double. Passes depend on the task alone, not on
// what was scored before, so a resumed run gives the figures of an uninterrupted one to the bit.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nibble/eval/log_likelihood.h"

namespace nibble {

class ScoreLog {
 public:
  /// Scores that are kept nowhere.
  ScoreLog() = default;
  /// Goes on with the file, or begins it. A last line that was torn is dropped. UserError for the log of something
  /// else, and for a file that is no such log.
  ScoreLog(std::filesystem::path path, const std::string& fingerprint, std::int64_t passes);

  /// The scores of a pass that is done, or null.
  const std::vector<Score>* find(std::size_t pass) const;
  void append(std::size_t pass, std::vector<Score> scores);

 private:
  void read(const std::string& text, const std::string& fingerprint);
  std::filesystem::path path_;
  std::ofstream out_;
  std::map<std::size_t, std::vector<Score>> done_;
};

}  // namespace nibble
