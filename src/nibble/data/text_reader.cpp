#include "nibble/data/text_reader.h"

#include <glob.h>
#include <simdjson.h>

#include <algorithm>
#include <filesystem>
#include <string_view>
#include <utility>

#include "nibble/data/line_reader.h"
#include "nibble/io/file.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

bool is_blank(std::string_view text) { return text.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos; }

bool has_jsonl_name(fs::path path) {
  if (path.extension() == ".gz" || path.extension() == ".zst") path = path.stem();
  return path.extension() == ".jsonl" || path.extension() == ".ndjson";
}

}  // namespace

std::vector<std::string> expand_inputs(const std::vector<std::string>& inputs) {
  std::vector<std::string> files;
  for (const std::string& input : inputs) {
    if (input == "-") {
      if (std::count(files.begin(), files.end(), input) > 0) user_error("standard input ('-') is named twice");
      files.push_back(input);
      continue;
    }
    std::error_code error;
    if (fs::is_directory(input, error)) {
      user_error("'{}' is a directory; name its files, for instance '{}'", input, (fs::path(input) / "*").string());
    }
    if (fs::exists(input, error)) {
      files.push_back(input);
      continue;
    }
    glob_t matches{};
    const int status = ::glob(input.c_str(), 0, nullptr, &matches);
    const std::vector<std::string> found(matches.gl_pathv, matches.gl_pathv + matches.gl_pathc);
    ::globfree(&matches);
    const std::size_t before = files.size();
    for (const std::string& path : found) {
      if (!fs::is_directory(path, error)) files.push_back(path);
    }
    if (status != 0 || files.size() == before) {
      const bool pattern = input.find_first_of("*?[") != std::string::npos;
      user_error("{} '{}'; check the path", pattern ? "no file matches" : "there is no file", input);
    }
  }
  return files;
}

struct TextReader::State {
  std::vector<std::string> files;
  ReaderOptions options;
  std::uint64_t total_bytes = 0;

  std::size_t next_file = 0;
  std::uint64_t finished_bytes = 0;  // of the files before the open one
  std::unique_ptr<LineReader> lines;
  bool jsonl = false;
  std::string line;
  simdjson::dom::parser parser;

  /// Closes the file at hand and opens the next one; false when there is none.
  bool open_next() {
    close();
    if (next_file == files.size()) return false;
    const std::string& file = files[next_file++];
    jsonl = options.format == InputFormat::Jsonl ||
            (options.format == InputFormat::ByName && file != "-" && has_jsonl_name(file));
    lines =
        std::make_unique<LineReader>(file, options.max_document_bytes, "say how documents are split (separator, line)");
    return true;
  }
  void close() {
    if (lines) finished_bytes += lines->file_bytes_read();
    lines.reset();
  }

  /// One document of the open file; false at its end.
  bool next_in_file(std::string& document) {
    if (jsonl) return next_object(document);
    if (options.split == DocumentSplit::Line) return lines->next(document);
    document.clear();
    bool any = false;
    while (lines->next(line)) {
      if (options.split == DocumentSplit::Separator && line == options.separator) return true;
      lines->check_length(document.size() + line.size() + 1);
      if (any) document += '\n';
      document += line;
      any = true;
    }
    return any;
  }

  bool next_object(std::string& document) {
    do {
      if (!lines->next(line)) return false;
    } while (is_blank(line));
    if (options.json_field.empty()) {
      document = line;
      return true;
    }
    const std::size_t length = line.size();
    line.resize(length + simdjson::SIMDJSON_PADDING);
    simdjson::dom::element object;
    if (const auto error = parser.parse(line.data(), length, false).get(object)) {
      user_error("{}: malformed JSON: {}", lines->where(), simdjson::error_message(error));
    }
    if (!object.is_object()) user_error("{}: this line is not a JSON object", lines->where());
    std::string_view text;
    const auto error = object[options.json_field].get(text);
    if (error == simdjson::NO_SUCH_FIELD) {
      user_error("{}: the object has no field '{}'; name the field that holds the text", lines->where(),
                 options.json_field);
    }
    if (error) user_error("{}: the field '{}' is not a string", lines->where(), options.json_field);
    document.assign(text);
    return true;
  }
};

TextReader::TextReader(const std::vector<std::string>& inputs, ReaderOptions options) : state_(new State) {
  state_->files = expand_inputs(inputs);
  state_->options = std::move(options);
  if (state_->files.empty()) user_error("no input is named; give files, patterns, or '-' for standard input");
  for (const std::string& file : state_->files) {
    // A pipe must be opened once only.
    if (file != "-" && fs::is_regular_file(file)) state_->total_bytes += InputFile(file).size();
  }
}

TextReader::~TextReader() = default;

bool TextReader::next(std::string& document) {
  State& s = *state_;
  while (s.lines || s.open_next()) {
    while (s.next_in_file(document)) {
      if (!is_blank(document)) return true;
    }
    if (!s.open_next()) break;
  }
  document.clear();
  return false;
}

std::string TextReader::where() const { return state_->lines ? state_->lines->where() : "the end of the inputs"; }

std::uint64_t TextReader::file_bytes_read() const {
  return state_->finished_bytes + (state_->lines ? state_->lines->file_bytes_read() : 0);
}

std::uint64_t TextReader::file_bytes_total() const { return state_->total_bytes; }

}  // namespace nibble
