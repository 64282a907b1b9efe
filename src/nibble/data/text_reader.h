// Documents out of text files, as a stream: at no time is more than one document and one buffer in memory.
//
//   name                     content                                   a document is
//   *.jsonl *.ndjson         one JSON object a line                    the field `json_field` of each object
//   anything else            UTF-8 text                                what `split` says
//
// or, where `json_field` is empty, the whole line that holds the object, unread.
//
// Each of them may be compressed (*.gz, *.zst, or recognised by its first bytes). Lines end in LF or CRLF; a byte
// order mark at the beginning is dropped; documents of white space alone are left out. A document has no newline at its
// end: "a LF b LF" between two separators is the document "a LF b".
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace nibble {

enum class DocumentSplit : std::uint8_t {
  Separator,  ///< a line that holds `separator` and nothing else ends a document, as the end of the file does
  Line,       ///< every line is a document
  File,       ///< every file is a document
};

enum class InputFormat : std::uint8_t { ByName, Text, Jsonl };

struct ReaderOptions {
  DocumentSplit split = DocumentSplit::Separator;
  std::string separator = "<|endoftext|>";
  std::string json_field = "text";
  InputFormat format = InputFormat::ByName;  ///< ByName takes standard input as text
  /// A longer document is a UserError: the separator was mistyped more often than meant.
  std::uint64_t max_document_bytes = std::uint64_t{64} << 20;
};

/// Inputs as a user writes them: files, glob patterns ("corpus/*.zst", sorted by name) and "-" for standard input.
/// UserError for a pattern that matches nothing, a missing file, a directory, and a second "-".
std::vector<std::string> expand_inputs(const std::vector<std::string>& inputs);

class TextReader {
 public:
  /// `inputs` are given to expand_inputs.
  TextReader(const std::vector<std::string>& inputs, ReaderOptions options);
  ~TextReader();
  TextReader(const TextReader&) = delete;
  TextReader& operator=(const TextReader&) = delete;

  /// The next document, in the order of the inputs; false at the end. UserError with file and line for malformed JSON,
  /// a missing field, or a document above the limit; with the file for corrupt or truncated compressed data.
  bool next(std::string& document);

  /// "FILE:LINE" of the end of the document that `next` gave last, for messages.
  std::string where() const;

  /// For progress: bytes of the files on disk, so compressed ones where they are.
  std::uint64_t file_bytes_read() const;
  std::uint64_t file_bytes_total() const;  ///< without standard input

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble
