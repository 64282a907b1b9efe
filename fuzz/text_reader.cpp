// Documents out of a file, plain or compressed. The first byte chooses among the four ways to split it.
#include "nibble/data/text_reader.h"

#include "fuzz/harness/input_files.h"
#include "fuzz/harness/target.h"

namespace nibble::fuzz {

void read_input(std::string_view bytes) {
  if (bytes.empty()) return;
  static MemoryFile file;
  ReaderOptions options;
  options.max_document_bytes = 1 << 20;
  const int choice = bytes.front() % 4;
  options.format = choice == 3 ? InputFormat::Jsonl : InputFormat::Text;
  if (choice < 3) options.split = static_cast<DocumentSplit>(choice);
  TextReader reader({file.hold(bytes.substr(1)).string()}, options);
  for (std::string document; reader.next(document);) {
    check(!document.empty() && document.size() <= options.max_document_bytes, "a document has its size");
  }
  check(reader.file_bytes_read() == reader.file_bytes_total(), "a file is read to its end");
}

}  // namespace nibble::fuzz
