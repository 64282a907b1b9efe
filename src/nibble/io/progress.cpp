#include "nibble/io/progress.h"

#include <fmt/core.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <utility>

#include "nibble/io/format.h"

namespace nibble {
namespace {

constexpr double kRedrawSeconds = 0.1;
constexpr std::size_t kBarColumns = 24;
constexpr std::size_t kSmallestBar = 6;
constexpr const char* kEraseLine = "\r\x1b[2K";

std::string bar(double share, std::size_t columns) {
  const auto filled = static_cast<std::size_t>(share * static_cast<double>(columns));
  std::string text(filled, '=');
  if (filled < columns) text += '>';
  text.resize(columns, ' ');
  return fmt::format("[{}]", text);
}

std::string counts(const ProgressState& state) {
  if (state.total <= 0) return format_integer(state.done);
  return format_integer(state.done) + "/" + format_integer(state.total);
}

/// Everything right of the bar.
std::string facts(const ProgressState& state, double share) {
  std::string text;
  const auto add = [&](const std::string& part) {
    if (!part.empty()) text += (text.empty() ? "" : "  ") + part;
  };
  if (state.total > 0) add(fmt::format("{:3.0f} %", 100 * share));
  add(counts(state));
  add(state.rate);
  if (state.total > 0 && state.done >= state.total) {
    add("in " + format_duration(state.seconds));
  } else if (state.remaining_seconds >= 0) {
    add("ETA " + format_duration(state.remaining_seconds));
  } else if (state.total <= 0) {
    add(format_duration(state.seconds));
  }
  add(state.extra);
  return text;
}

}  // namespace

std::string progress_line(const ProgressState& state, std::size_t width) {
  const double share =
      state.total > 0 ? std::clamp(static_cast<double>(state.done) / static_cast<double>(state.total), 0.0, 1.0) : 0;
  const std::string right = facts(state, share);
  const std::string left = state.label.empty() ? "" : state.label + "  ";
  const std::size_t needed = display_width(left) + display_width(right);
  if (state.total > 0) {
    const std::size_t around = 4;  // brackets and the two blanks behind
    if (needed + around + kSmallestBar <= width) {
      return left + bar(share, std::min(kBarColumns, width - needed - around)) + "  " + right;
    }
  }
  return fit_width(left + right, width);
}

ProgressOutput standard_error_output() {
  ProgressOutput output;
  output.write = [](std::string_view text) {
    std::fwrite(text.data(), 1, text.size(), stderr);
    std::fflush(stderr);
  };
  output.seconds = [] {
    return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  };
  const char* terminal = std::getenv("TERM");
  if (isatty(STDERR_FILENO) == 1 && terminal && std::string_view(terminal) != "dumb") {
    output.width = []() -> std::size_t {
      winsize size{};
      if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) != 0 || size.ws_col == 0) return 80;
      return size.ws_col;
    };
  }
  return output;
}

Progress::Progress(std::string label, std::int64_t total, std::int64_t already_done, ProgressOutput output)
    : already_done_(already_done), output_(std::move(output)), start_(output_.seconds()) {
  state_.label = std::move(label);
  state_.total = total;
  state_.done = already_done;
  next_draw_ = start_ + (output_.width ? 0 : output_.plain_interval);
}

Progress::~Progress() { finish(); }

void Progress::update(std::int64_t done, std::string rate, std::string extra) {
  const double now = output_.seconds();
  state_.done = done;
  up_to_date_ = false;
  state_.rate = std::move(rate);
  state_.extra = std::move(extra);
  state_.seconds = now - start_;
  state_.remaining_seconds = -1;
  if (state_.total > 0 && done > already_done_) {
    const double per_item = state_.seconds / static_cast<double>(done - already_done_);
    state_.remaining_seconds = per_item * static_cast<double>(std::max<std::int64_t>(state_.total - done, 0));
  }
  if (now < next_draw_) return;
  next_draw_ = now + (output_.width ? kRedrawSeconds : output_.plain_interval);
  draw();
}

void Progress::draw() {
  up_to_date_ = true;
  if (output_.width) {
    // The last column stays free: many terminals wrap as soon as it is written.
    output_.write(kEraseLine + progress_line(state_, std::max<std::size_t>(output_.width(), 2) - 1));
    drawn_ = true;
  } else {
    std::string line = state_.label.empty() ? "" : state_.label + "  ";
    const double share = state_.total > 0 ? static_cast<double>(state_.done) / static_cast<double>(state_.total) : 0;
    output_.write(line + facts(state_, share) + "\n");
  }
}

void Progress::message(std::string_view line) {
  if (drawn_) output_.write(kEraseLine);
  output_.write(std::string(line) + "\n");
  if (drawn_) draw();
}

void Progress::finish() {
  if (finished_) return;
  finished_ = true;
  state_.seconds = output_.seconds() - start_;
  state_.remaining_seconds = -1;
  if (output_.width || !up_to_date_) draw();
  if (drawn_) output_.write("\n");
}

}  // namespace nibble
