#include "nibble/io/tensorboard.h"

#include <fcntl.h>
#include <fmt/core.h>
#include <unistd.h>

#include <array>
#include <bit>
#include <cerrno>
#include <chrono>

#include "nibble/io/crc32c.h"
#include "nibble/tensor/error.h"

namespace nibble {
namespace {

// Events are small; this many bytes are a few hundred steps.
constexpr std::size_t kBufferBytes = 64 << 10;

double wall_time() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

template <class T>
void append_little_endian(std::string& out, T value) {
  for (std::size_t i = 0; i < sizeof(T); ++i) out += static_cast<char>(value >> (8 * i) & 0xFF);
}

void append_varint(std::string& out, std::uint64_t value) {
  for (; value >= 0x80; value >>= 7) out += static_cast<char>(value | 0x80);
  out += static_cast<char>(value);
}

// The wire types of protobuf that events use.
enum class Wire : std::uint8_t { Varint = 0, Fixed64 = 1, Bytes = 2, Fixed32 = 5 };

void append_key(std::string& out, int field, Wire wire) {
  append_varint(out, static_cast<std::uint64_t>(field) << 3 | static_cast<std::uint64_t>(wire));
}

void append_int(std::string& out, int field, std::int64_t value) {
  append_key(out, field, Wire::Varint);
  append_varint(out, static_cast<std::uint64_t>(value));
}

void append_double(std::string& out, int field, double value) {
  append_key(out, field, Wire::Fixed64);
  append_little_endian(out, std::bit_cast<std::uint64_t>(value));
}

void append_float(std::string& out, int field, float value) {
  append_key(out, field, Wire::Fixed32);
  append_little_endian(out, std::bit_cast<std::uint32_t>(value));
}

void append_bytes(std::string& out, int field, std::string_view bytes) {
  append_key(out, field, Wire::Bytes);
  append_varint(out, bytes.size());
  out += bytes;
}

std::string event(std::int64_t step) {
  std::string out;
  append_double(out, 1, wall_time());
  if (step != 0) append_int(out, 2, step);
  return out;
}

void append_record(std::string& out, std::string_view data) {
  std::string length;
  append_little_endian(length, static_cast<std::uint64_t>(data.size()));
  out += length;
  append_little_endian(out, masked_crc32c(length));
  out += data;
  append_little_endian(out, masked_crc32c(data));
}

std::string host_name() {
  std::array<char, 256> name{};
  if (gethostname(name.data(), name.size() - 1) != 0 || name[0] == '\0') return "localhost";
  std::string host(name.data());
  for (char& c : host) {
    if (c == '/') c = '-';
  }
  return host;
}

}  // namespace

EventWriter::EventWriter(const std::filesystem::path& directory, std::int64_t first_step) {
  make_directories(directory);
  const auto seconds = static_cast<std::int64_t>(wall_time());
  const std::string host = host_name();
  for (int n = 0;; ++n) {
    path_ = directory / fmt::format("events.out.tfevents.{:010}.{}.{}.{}", seconds, host, getpid(), n);
    fd_ = FileDescriptor(open(path_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644));
    if (fd_.get() >= 0) break;
    if (errno != EEXIST) file_error("create", path_, errno);
  }
  std::string version = event(0);
  append_bytes(version, 3, "brain.Event:2");
  append_record(buffer_, version);
  if (first_step > 0) {
    std::string session;
    append_int(session, 1, 1);  // SessionLog.status = START
    std::string start = event(first_step);
    append_bytes(start, 7, session);
    append_record(buffer_, start);
  }
  flush();
}

EventWriter::~EventWriter() {
  try {
    flush();
  } catch (const UserError&) {
    // Nothing can be done about a full disk while unwinding.
  }
}

void EventWriter::scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& values) {
  std::string summary;
  for (const auto& [tag, value] : values) {
    std::string entry;
    append_bytes(entry, 1, tag);
    append_float(entry, 2, static_cast<float>(value));
    append_bytes(summary, 1, entry);
  }
  std::string record = event(step);
  append_bytes(record, 5, summary);
  append_record(buffer_, record);
  if (buffer_.size() >= kBufferBytes) flush();
}

void EventWriter::flush() {
  std::string_view rest = buffer_;
  while (!rest.empty()) {
    const ssize_t written = write(fd_.get(), rest.data(), rest.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) {
      const int error = errno;
      buffer_.erase(0, buffer_.size() - rest.size());
      file_error("write", path_, error);
    }
    rest.remove_prefix(static_cast<std::size_t>(written));
  }
  buffer_.clear();
}

}  // namespace nibble
