#include "nibble/train/metrics.h"

#include <cerrno>
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

}  // namespace nibble
