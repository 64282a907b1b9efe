#include "nibble/train/metrics.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <nlohmann/json.hpp>
#include <sstream>

#include "nibble/io/atomic_file.h"
#include "nibble/io/file.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

/// The lines of a metrics file up to and including `last_step`; a torn last line is dropped.
std::string lines_up_to(const fs::path& path, std::int64_t last_step) {
  std::string lines;
  std::istringstream in(read_file(path));
  int number = 0;
  for (std::string line; std::getline(in, line);) {
    ++number;
    const nlohmann::json json = nlohmann::json::parse(line, nullptr, /*allow_exceptions=*/false);
    if (json.is_discarded() || !json.is_object() || !json.contains("step")) {
      if (in.peek() == std::istringstream::traits_type::eof()) break;
      user_error("'{}' line {} is not a JSON object with a step", path.string(), number);
    }
    if (json["step"].get<std::int64_t>() <= last_step) lines += line + "\n";
  }
  return lines;
}

constexpr const char* kProductNames[] = {"fprop", "dgrad", "wgrad"};

/// JSON has no infinity: null stands for a figure that is exact.
nlohmann::ordered_json finite_or_null(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
}

double share(std::int64_t part, std::int64_t all) {
  return static_cast<double>(part) / static_cast<double>(std::max<std::int64_t>(all, 1));
}

nlohmann::ordered_json operand_json(const QuantQuality& q) {
  return {{"snr_db", finite_or_null(q.snr_db())},
          {"cosine", q.cosine()},
          {"relative_mse", q.relative_mse()},
          {"underflow", share(q.underflow, q.count)},
          {"clamped", q.clamped_share()},
          {"clipped", share(q.clipped, q.count)},
          {"bias", q.bias()},
          {"scale_saturated", share(q.scale_saturated, q.blocks)},
          {"scale_underflow", share(q.scale_underflow, q.blocks)}};
}

nlohmann::ordered_json operands_json(const LinearQuality& operands) {
  nlohmann::ordered_json json = nlohmann::ordered_json::object();
  for (Operand o : kAllOperands) {
    const QuantQuality& q = operands[static_cast<std::size_t>(o)];
    if (q.count > 0) json[operand_name(o)] = operand_json(q);
  }
  return json;
}

void add_products(const LayerTelemetry& layer, nlohmann::ordered_json& json) {
  nlohmann::ordered_json products = nlohmann::ordered_json::object();
  for (std::size_t p = 0; p < layer.products.size(); ++p) {
    const ProductQuality& q = layer.products[p];
    if (q.count == 0) continue;
    products[kProductNames[p]] = {
        {"cosine", q.cosine()}, {"magnitude", q.magnitude()}, {"noise", finite_or_null(1 / q.rho())}};
  }
  if (!products.empty()) json["products"] = std::move(products);
  if (layer.oscillation) json["oscillation"] = layer.oscillation->ratio();
}

}  // namespace

MetricsLog::MetricsLog(const fs::path& run, std::int64_t last_step) : path_(run / "metrics.jsonl") {
  if (fs::exists(path_)) write_file_atomic(path_, lines_up_to(path_, last_step));
  file_.reset(std::fopen(path_.c_str(), "ab"));
  if (!file_) file_error("open", path_, errno);
}

void MetricsLog::append(const nlohmann::ordered_json& step) {
  const std::string line = step.dump() + "\n";
  if (std::fwrite(line.data(), 1, line.size(), file_.get()) != line.size() || std::fflush(file_.get()) != 0) {
    file_error("write", path_, errno);
  }
}

void add_telemetry(const Telemetry& telemetry, nlohmann::ordered_json& line) {
  line["quality"] = operands_json(telemetry.total.operands);
  add_products(telemetry.total, line);
  if (const auto rho = telemetry.gradient_to_noise()) line["gradient_to_noise"] = finite_or_null(*rho);
  nlohmann::ordered_json layers = nlohmann::ordered_json::object();
  for (const LayerTelemetry& layer : telemetry.layers) {
    nlohmann::ordered_json json = operands_json(layer.operands);
    add_products(layer, json);
    layers[layer.layer] = std::move(json);
  }
  line["layers"] = std::move(layers);
}

}  // namespace nibble
