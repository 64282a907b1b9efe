#include "nibble/data/text_reader.h"

#include "tests/data/compress.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

using Texts = std::vector<std::string>;

Texts read_documents(const Texts& inputs, const ReaderOptions& options = {}) {
  TextReader reader(inputs, options);
  Texts documents;
  for (std::string document; reader.next(document);) documents.push_back(document);
  EXPECT_EQ(reader.file_bytes_read(), reader.file_bytes_total());
  std::string after;
  EXPECT_FALSE(reader.next(after));
  return documents;
}

ReaderOptions split_by(DocumentSplit split) {
  ReaderOptions options;
  options.split = split;
  return options;
}

TEST(TextReader, SplitsAtTheSeparatorLine) {
  const TemporaryDirectory dir;
  const auto documents = [&](const std::string& text) { return read_documents({dir.write("a.txt", text)}); };
  EXPECT_EQ(documents("a\n<|endoftext|>\nb\n\nc\n<|endoftext|>\n"), (Texts{"a", "b\n\nc"}));
  EXPECT_EQ(documents("a\n<|endoftext|>\nb"), (Texts{"a", "b"}));
  EXPECT_EQ(documents("a\n<|endoftext|>"), (Texts{"a"}));
  EXPECT_EQ(documents("no separator\nat all\n"), (Texts{"no separator\nat all"}));
  EXPECT_EQ(documents("in a <|endoftext|> line\n <|endoftext|>\n"), (Texts{"in a <|endoftext|> line\n <|endoftext|>"}));
  EXPECT_EQ(documents("a\n\n\n<|endoftext|>\n\nb"), (Texts{"a\n\n", "\nb"}));
  EXPECT_EQ(documents(""), Texts{});
}

TEST(TextReader, TakesAnotherSeparator) {
  const TemporaryDirectory dir;
  ReaderOptions options;
  options.separator = "%";
  EXPECT_EQ(read_documents({dir.write("fortunes", "a\n%\nb\nc\n%\n")}, options), (Texts{"a", "b\nc"}));
}

TEST(TextReader, TakesLinesOrWholeFiles) {
  const TemporaryDirectory dir;
  const std::string path = dir.write("a.txt", "one\n\n  \ntwo\nthree");
  EXPECT_EQ(read_documents({path}, split_by(DocumentSplit::Line)), (Texts{"one", "two", "three"}));
  EXPECT_EQ(read_documents({path, path}, split_by(DocumentSplit::File)),
            (Texts{"one\n\n  \ntwo\nthree", "one\n\n  \ntwo\nthree"}));
}

TEST(TextReader, AcceptsWindowsLineEndsAndAByteOrderMark) {
  const TemporaryDirectory dir;
  const std::string path = dir.write("a.txt", "\xEF\xBB\xBFone\r\ntwo\r\n<|endoftext|>\r\nthree\r\n");
  EXPECT_EQ(read_documents({path}), (Texts{"one\ntwo", "three"}));
}

TEST(TextReader, LeavesOutBlankDocuments) {
  const TemporaryDirectory dir;
  EXPECT_EQ(read_documents({dir.write("a.txt", "\n<|endoftext|>\n \t\n<|endoftext|>\nx\n<|endoftext|>\n")}),
            Texts{"x"});
  EXPECT_EQ(read_documents({dir.write("a.jsonl", "{\"text\":\"\"}\n{\"text\":\"x\"}\n")}), Texts{"x"});
}

TEST(TextReader, ReadsTheFieldOfEachJsonLine) {
  const TemporaryDirectory dir;
  const std::string lines =
      "{\"text\": \"a\\nb \\u00e9 \\ud83d\\ude00\", \"id\": 1}\n\n{\"id\":{},\"text\":\"<|endoftext|>\"}";
  const Texts expected = {"a\nb \xC3\xA9 \xF0\x9F\x98\x80", "<|endoftext|>"};
  EXPECT_EQ(read_documents({dir.write("a.jsonl", lines)}), expected);
  EXPECT_EQ(read_documents({dir.write("a.jsonl.gz", gzip(lines))}), expected);
  EXPECT_EQ(read_documents({dir.write("a.ndjson.zst", zstd(lines))}), expected);
  ReaderOptions options;
  options.format = InputFormat::Jsonl;
  EXPECT_EQ(read_documents({dir.write("lines", lines)}, options), expected);
  options.json_field = "content";
  EXPECT_EQ(read_documents({dir.write("b", "{\"content\":\"c\",\"text\":\"t\"}")}, options), Texts{"c"});
}

TEST(TextReader, NamesFileAndLineOfBadJson) {
  const TemporaryDirectory dir;
  const auto refused = [&](const std::string& line, const std::string& fragment) {
    const std::string path = dir.write("a.jsonl", "{\"text\":\"fine\"}\n\n" + line + "\n");
    const std::string message = user_error_of([&] { read_documents({path}); });
    EXPECT_NE(message.find(path + ":3: "), std::string::npos) << message;
    EXPECT_NE(message.find(fragment), std::string::npos) << message;
  };
  refused("{\"text\":\"unfinished", "malformed JSON");
  refused("{\"text\":\"x\"} tail", "malformed JSON");
  refused("{\"text\":\"\xC3(\"}", "malformed JSON");
  refused("text", "malformed JSON");
  refused("[\"text\"]", "not a JSON object");
  refused("{\"body\":\"x\"}", "no field 'text'");
  refused("{\"text\":7}", "is not a string");
  refused("{\"text\":null}", "is not a string");
}

TEST(TextReader, KeepsTheOrderOfFilesAndSortsPatterns) {
  const TemporaryDirectory dir;
  dir.write("c.txt", "c");
  dir.write("a.txt", "a");
  dir.write("b.txt", "b");
  make_directories(dir / "d.txt");
  EXPECT_EQ(read_documents({(dir / "*.txt").string()}), (Texts{"a", "b", "c"}));
  EXPECT_EQ(read_documents({(dir / "c.txt").string(), (dir / "[ab].txt").string()}), (Texts{"c", "a", "b"}));
}

TEST(TextReader, AFileMayHaveAPatternForAName) {
  const TemporaryDirectory dir;
  dir.write("a[1].txt", "bracket");
  dir.write("a1.txt", "plain");
  EXPECT_EQ(read_documents({(dir / "a[1].txt").string()}), Texts{"bracket"});
}

TEST(TextReader, RefusesInputsThatCannotBeRead) {
  const TemporaryDirectory dir;
  EXPECT_USER_ERROR(expand_inputs({(dir / "*.txt").string()}), "no file matches");
  EXPECT_USER_ERROR(expand_inputs({(dir / "none.txt").string()}), "there is no file");
  EXPECT_USER_ERROR(expand_inputs({dir.path().string()}), "is a directory");
  EXPECT_USER_ERROR(expand_inputs({"-", "-"}), "named twice");
  EXPECT_USER_ERROR(TextReader({}, {}), "no input");
}

TEST(TextReader, RefusesADocumentAboveTheLimit) {
  const TemporaryDirectory dir;
  ReaderOptions options;
  options.max_document_bytes = 1 << 20;
  std::string lines;
  for (int i = 0; i < 3000; ++i) lines += std::string(500, 'x') + "\n";
  const std::string many = dir.write("many.txt", lines);
  EXPECT_USER_ERROR(read_documents({many}, options), many + ":");
  EXPECT_USER_ERROR(read_documents({many}, options), "longer than 1 MiB");
  options.split = DocumentSplit::Line;
  EXPECT_EQ(read_documents({many}, options).size(), 3000u);
  EXPECT_USER_ERROR(read_documents({dir.write("one.txt", std::string(3 << 20, 'x'))}, options), "longer than 1 MiB");
}

TEST(TextReader, NamesTheFileThatIsTruncated) {
  const TemporaryDirectory dir;
  std::string text;
  for (int i = 0; i < 2000; ++i) text += "document " + std::to_string(i * i) + "\n<|endoftext|>\n";
  const std::string bytes = zstd(text);
  const std::string fine = dir.write("1.zst", bytes);
  const std::string cut = dir.write("2.zst", bytes.substr(0, bytes.size() - 20));
  EXPECT_USER_ERROR(read_documents({fine, cut}), "'" + cut + "' is truncated");
}

TEST(TextReader, ReportsProgressInBytesOfTheFiles) {
  const TemporaryDirectory dir;
  std::string text;
  for (int i = 0; i < 200000; ++i) text += "line " + std::to_string(i) + "\n";
  const std::string a = dir.write("a.gz", gzip(text)), b = dir.write("b.txt", text);
  TextReader reader({a, b}, split_by(DocumentSplit::Line));
  EXPECT_EQ(reader.file_bytes_total(), std::filesystem::file_size(a) + text.size());
  std::uint64_t last = 0;
  for (std::string document; reader.next(document);) {
    ASSERT_GE(reader.file_bytes_read(), last);
    last = reader.file_bytes_read();
  }
  EXPECT_EQ(last, reader.file_bytes_total());
}

}  // namespace
}  // namespace nibble
