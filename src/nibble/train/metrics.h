// metrics.jsonl: one JSON object a line, one line a step (docs/formats.md).
#pragma once

#include <cstdio>
#include <filesystem>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

#include "nibble/recipe/linear.h"

namespace nibble {

class MetricsLog {
 public:
  /// Opens RUN/metrics.jsonl for appending, after dropping every line past `last_step` (what a run wrote between its
  /// newest checkpoint and its end) and a torn last line.
  MetricsLog(const std::filesystem::path& run, std::int64_t last_step);
  /// Appends one line and flushes it.
  void append(const nlohmann::json& step);

 private:
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

/// {"snr_db", "cosine", "relative_mse", "underflow", "clamped"} of one operand; snr_db null when exact.
nlohmann::json quality_json(const QuantQuality& quality);
/// {"fprop.x": {...}, ...} for the operands that were measured.
nlohmann::json quality_json(const LinearQuality& quality);

/// What a run came to, from its metrics.jsonl.
struct RunSummary {
  std::int64_t steps = 0;
  std::int64_t tokens = 0;
  double train_loss = 0;                                ///< mean of the last 50 steps (of all, when there are fewer)
  std::optional<double> val_loss;                       ///< the last one measured
  double tokens_per_second = 0;                         ///< median over the steps
  std::optional<double> clamped_share;                  ///< of fprop.x, mean over the measurements
  std::map<std::string, std::optional<double>> snr_db;  ///< by operand, mean over the measurements; empty = exact
};
RunSummary summarise_metrics(const std::filesystem::path& run);
/// The last steps whose mean loss is reported as the training loss.
inline constexpr std::size_t kTrainLossWindow = 50;

}  // namespace nibble
