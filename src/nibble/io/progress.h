// A progress line. On a terminal it rewrites itself in place, at most ten times a second and never wider than the
// terminal; anywhere else (a log file, a pipe) it is a plain line every few seconds.
//
//   wang2025-s1  [=========>          ]  45 %  270/600  2,960 tok/s  ETA 2:14  loss 3.8121
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace nibble {

struct ProgressState {
  std::string label{};
  std::int64_t done = 0;
  std::int64_t total = 0;         ///< 0: not known; no bar, no ETA
  std::string rate{};             ///< "2,960 tok/s"; may be empty
  std::string extra{};            ///< anything else; may be empty
  double seconds = 0;             ///< since the start, ...
  double remaining_seconds = -1;  ///< ... and to the end; negative: not known
};

/// The line for a terminal of `width` columns. What does not fit goes in this order: the bar shrinks, then goes,
/// then `extra` and the rest are cut at the right.
std::string progress_line(const ProgressState& state, std::size_t width);

/// Where a progress line goes and how time passes there.
struct ProgressOutput {
  std::function<void(std::string_view)> write;
  std::function<double()> seconds;     ///< monotonic
  std::function<std::size_t()> width;  ///< columns of the terminal; null if the output is not a terminal
  double plain_interval = 10;          ///< seconds between lines where it is not
};

/// Standard error, which keeps standard output clean for results.
ProgressOutput standard_error_output();

/// Not for use from several threads at once.
class Progress {
 public:
  /// `already_done` counts towards `done` but not towards the speed (a resumed run).
  Progress(std::string label, std::int64_t total, std::int64_t already_done = 0,
           ProgressOutput output = standard_error_output());
  /// Ends the line as finish() does if that was not called.
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(std::int64_t done, std::string rate = {}, std::string extra = {});
  /// Prints a whole line above the progress line.
  void message(std::string_view line);
  /// Shows the last state and moves to a new line. The line then gives the time taken in place of the ETA.
  void finish();

 private:
  void draw();
  ProgressState state_;
  std::int64_t already_done_;
  ProgressOutput output_;
  double start_;
  double next_draw_;
  bool drawn_ = false;      // a line without newline stands on the terminal
  bool up_to_date_ = true;  // nothing happened since the last line
  bool finished_ = false;
};

}  // namespace nibble
