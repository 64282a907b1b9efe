#include "nibble/train/metrics.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>
#include <vector>

#include "nibble/io/atomic_file.h"
#include "nibble/io/file.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// Parsed lines of a metrics file up to and including `last_step`; a torn last line is dropped.
std::vector<std::pair<std::string, nlohmann::json>> read_lines(const fs::path& path, std::int64_t last_step) {
  std::vector<std::pair<std::string, nlohmann::json>> lines;
  std::istringstream in(read_file(path));
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded() || !json.is_object() || !json.contains("step")) {
      if (in.peek() == std::istringstream::traits_type::eof()) break;
      user_error("'{}' line {} is not a JSON object with a step", path.string(), number);
    }
    if (json["step"].get<std::int64_t>() <= last_step) lines.emplace_back(std::move(line), std::move(json));
  }
  return lines;
}

double median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

}  // namespace

MetricsLog::MetricsLog(const fs::path& run, std::int64_t last_step) : path_(run / "metrics.jsonl") {
  if (fs::exists(path_)) {
    std::string kept;
    for (const auto& [line, json] : read_lines(path_, last_step)) kept += line + "\n";
    write_file_atomic(path_, kept);
  }
  file_.reset(std::fopen(path_.c_str(), "ab"));
  if (!file_) file_error("open", path_, errno);
}

void MetricsLog::append(const nlohmann::json& step) {
  const std::string line = step.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0) {
    file_error("write", path_, errno);
  }
}

nlohmann::json quality_json(const QuantQuality& q) {
  const double count = static_cast<double>(std::max<std::int64_t>(q.count, 1));
  const double snr = q.snr_db();
  return {{"snr_db", std::isfinite(snr) ? nlohmann::json(snr) : nlohmann::json()},
          {"cosine", q.cosine()},
          {"relative_mse", q.relative_mse()},
          {"underflow", static_cast<double>(q.underflow) / count},
          {"clamped", q.clamped_share()}};
}

nlohmann::json quality_json(const LinearQuality& quality) {
  nlohmann::json json = nlohmann::json::object();
  for (Operand o : kAllOperands) {
    const QuantQuality& q = quality[static_cast<std::size_t>(o)];
    if (q.count > 0) json[operand_name(o)] = quality_json(q);
  }
  return json;
}

RunSummary summarise_metrics(const fs::path& run) {
  RunSummary summary;
  std::vector<double> losses;
  std::vector<double> rates;
  std::map<std::string, std::vector<double>> snr;
  std::vector<double> clamped;
  for (const auto& [line, json] : read_lines(run / "metrics.jsonl", INT64_MAX)) {
    summary.steps = json.at("step").get<std::int64_t>();
    summary.tokens = json.value("tokens", std::int64_t{0});
    losses.push_back(json.value("loss", NAN));
    rates.push_back(json.value("tokens_per_second", 0.0));
    if (json.contains("val_loss")) summary.val_loss = json["val_loss"].get<double>();
    if (!json.contains("quality")) continue;
    for (const auto& [operand, q] : json["quality"].items()) {
      auto& values = snr[operand];
      if (!q["snr_db"].is_null()) values.push_back(q["snr_db"].get<double>());
      if (operand == operand_name(Operand::FpropX)) clamped.push_back(q.value("clamped", 0.0));
    }
  }
  const auto mean = [](auto begin, auto end) {
    double sum = 0;
    for (auto it = begin; it != end; ++it) sum += *it;
    return sum / static_cast<double>(std::max<std::ptrdiff_t>(end - begin, 1));
  };
  const std::size_t window = std::min(losses.size(), kTrainLossWindow);
  summary.train_loss = mean(losses.end() - static_cast<std::ptrdiff_t>(window), losses.end());
  summary.tokens_per_second = median(rates);
  if (!clamped.empty()) summary.clamped_share = mean(clamped.begin(), clamped.end());
  for (const auto& [operand, values] : snr) {
    summary.snr_db[operand] = values.empty() ? std::nullopt : std::optional<double>(mean(values.begin(), values.end()));
  }
  return summary;
}

}  // namespace nibble
