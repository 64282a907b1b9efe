#include "nibble/io/tensorboard.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <stdexcept>

#include "nibble/io/crc32c.h"
#include "nibble/tensor/error.h"
#include "tests/temporary_directory.h"

namespace nibble {
namespace {

// An independent reader of what protobuf and TFRecord put into an event file.
struct Event {
  double wall_time = 0;
  std::int64_t step = 0;
  std::string version;
  bool session_start = false;
  std::map<std::string, float> scalars;
};

struct Cursor {
  std::string bytes;
  std::size_t at = 0;
  bool done() const { return at == bytes.size(); }
  std::string take(std::size_t n) {
    if (n > bytes.size() - at) throw std::runtime_error("truncated");
    at += n;
    return bytes.substr(at - n, n);
  }
  template <class T>
  T fixed() {
    T value;
    std::memcpy(&value, take(sizeof(T)).data(), sizeof(T));
    return value;
  }
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (int shift = 0;; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
  }
};

std::pair<std::string, float> parse_value(Cursor in) {
  std::pair<std::string, float> value;
  while (!in.done()) {
    switch (in.varint()) {
      case (1 << 3 | 2): value.first = in.take(in.varint()); break;
      case (2 << 3 | 5): value.second = in.fixed<float>(); break;
      default: throw std::runtime_error("unexpected field of Value");
    }
  }
  return value;
}

Event parse_event(Cursor in) {
  Event event;
  while (!in.done()) {
    switch (in.varint()) {
      case (1 << 3 | 1): event.wall_time = in.fixed<double>(); break;
      case (2 << 3 | 0): event.step = static_cast<std::int64_t>(in.varint()); break;
      case (3 << 3 | 2): event.version = in.take(in.varint()); break;
      case (5 << 3 | 2): {
        Cursor summary{in.take(in.varint())};
        while (!summary.done()) {
          if (summary.varint() != (1 << 3 | 2)) throw std::runtime_error("unexpected field of Summary");
          event.scalars.insert(parse_value({summary.take(summary.varint())}));
        }
        break;
      }
      case (7 << 3 | 2): event.session_start = in.take(in.varint()) == std::string("\x08\x01"); break;
      default: throw std::runtime_error("unexpected field of Event");
    }
  }
  return event;
}

std::vector<Event> read_events(const std::filesystem::path& path) {
  Cursor in{read_file(path)};
  std::vector<Event> events;
  while (!in.done()) {
    const std::string length = in.take(8);
    if (in.fixed<std::uint32_t>() != masked_crc32c(length)) throw std::runtime_error("bad CRC of a length");
    std::uint64_t bytes;
    std::memcpy(&bytes, length.data(), 8);
    const std::string data = in.take(bytes);
    if (in.fixed<std::uint32_t>() != masked_crc32c(data)) throw std::runtime_error("bad CRC of a record");
    events.push_back(parse_event({data}));
  }
  return events;
}

TEST(EventWriter, StartsWithTheFileVersion) {
  TemporaryDirectory directory;
  const EventWriter writer(directory.path());
  const std::vector<Event> events = read_events(writer.path());
  ASSERT_EQ(events.size(), 1u);
  EXPECT_EQ(events[0].version, "brain.Event:2");
  EXPECT_GT(events[0].wall_time, 1.6e9);
}

TEST(EventWriter, RoundTripsScalars) {
  TemporaryDirectory directory;
  EventWriter writer(directory.path() / "new" / "folder");
  writer.scalars(1, {{"train/loss", 8.25}, {"train/lr", 1e-4}});
  writer.scalars(300000000000, {{"val/loss", std::nan("")}, {"größe", -INFINITY}});
  writer.flush();
  const std::vector<Event> events = read_events(writer.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_EQ(events[1].step, 1);
  EXPECT_EQ(events[1].scalars.at("train/loss"), 8.25f);
  EXPECT_EQ(events[1].scalars.at("train/lr"), 1e-4f);
  EXPECT_EQ(events[2].step, 300000000000);
  EXPECT_TRUE(std::isnan(events[2].scalars.at("val/loss")));
  EXPECT_EQ(events[2].scalars.at("größe"), -INFINITY);
}

TEST(EventWriter, OpensANewFileForEveryStart) {
  TemporaryDirectory directory;
  std::filesystem::path first;
  {
    EventWriter writer(directory.path());
    writer.scalars(5, {{"loss", 1.0}});
    first = writer.path();
  }
  const std::string before = read_file(first);
  EventWriter resumed(directory.path(), 4);
  resumed.scalars(4, {{"loss", 2.0}});
  resumed.flush();
  EXPECT_NE(first, resumed.path());
  EXPECT_TRUE(resumed.path().filename().string().starts_with("events.out.tfevents."));
  EXPECT_EQ(read_file(first), before);
  const std::vector<Event> events = read_events(resumed.path());
  ASSERT_EQ(events.size(), 3u);
  EXPECT_TRUE(events[1].session_start);
  EXPECT_EQ(events[1].step, 4);
}

TEST(EventWriter, WritesManyRecordsWithoutFlush) {
  TemporaryDirectory directory;
  std::filesystem::path path;
  {
    EventWriter writer(directory.path());
    path = writer.path();
    for (int step = 1; step <= 5000; ++step) writer.scalars(step, {{"loss", 1.0 / step}});
    EXPECT_NO_THROW(read_events(path)) << "what is on disk must end with a whole record at any time";
  }
  const std::vector<Event> events = read_events(path);
  ASSERT_EQ(events.size(), 5001u);
  EXPECT_EQ(events[5000].step, 5000);
  EXPECT_EQ(events[5000].scalars.at("loss"), 1.0f / 5000);
}

TEST(EventWriter, RefusesADirectoryThatCannotBeMade) {
  TemporaryDirectory directory;
  directory.write("file", "");
  EXPECT_THROW(EventWriter(directory.path() / "file" / "inside"), UserError);
}

}  // namespace
}  // namespace nibble
