// metrics.jsonl: one JSON object a line, one line a step (docs/formats.md).
#pragma once

#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <nlohmann/json_fwd.hpp>

#include "nibble/train/telemetry.h"

namespace nibble {

class MetricsLog {
 public:
  /// Opens RUN/metrics.jsonl for appending, after dropping every line past `last_step` (what a run wrote between its
  /// newest checkpoint and its end) and a torn last line.
  MetricsLog(const std::filesystem::path& run, std::int64_t last_step);
  /// Appends one line and flushes it.
  void append(const nlohmann::ordered_json& step);

 private:
  struct Close {
    void operator()(std::FILE* f) const { std::fclose(f); }
  };
  std::filesystem::path path_;
  std::unique_ptr<std::FILE, Close> file_;
};

/// Writes the keys "quality", "products", "oscillation", "gradient_to_noise" and "layers" into a line of metrics.
void add_telemetry(const Telemetry& telemetry, nlohmann::ordered_json& line);

}  // namespace nibble
