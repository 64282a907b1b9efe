// Scalars for TensorBoard. An event file is a sequence of TFRecords, each a protobuf `Event`:
//
//   | length u64 | masked crc32c(length) u32 | event | masked crc32c(event) u32 |     all little-endian
//
//   Event   { 1: wall_time double, 2: step int64, 3: file_version string | 5: summary Summary | 7: session_log }
//   Summary { repeated 1: Value { 1: tag string, 2: simple_value float } }
//
// The first record holds file_version "brain.Event:2". TensorBoard shows all event files of a directory as one run,
// so a run that is resumed opens a new file and never touches the old ones.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "nibble/io/file.h"

namespace nibble {

class EventWriter {
 public:
  /// Creates a new file events.out.tfevents.SECONDS.HOST.PID.N in `directory` (which is made if need be). With
  /// first_step > 0 it says so in a session record, and TensorBoard drops what an earlier attempt logged at
  /// that step and beyond. Throws UserError when the file can't be made.
  explicit EventWriter(const std::filesystem::path& directory, std::int64_t first_step = 0);
  /// Writes what is buffered; a failure here is not reported, so call flush() at the end of a run.
  ~EventWriter();
  EventWriter(const EventWriter&) = delete;
  EventWriter& operator=(const EventWriter&) = delete;

  /// One event with all scalars of a step. Values are stored as float, NaN and infinities included.
  void scalars(std::int64_t step, const std::vector<std::pair<std::string, double>>& values);
  /// Hands everything so far to the operating system; the file then ends with a whole record.
  void flush();

  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
  FileDescriptor fd_;
  std::string buffer_;
};

}  // namespace nibble
