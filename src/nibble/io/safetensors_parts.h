// Tensors in a folder's file STEM.safetensors, or cut by rows over the files of several ranks, of which each wrote what
// it had:
//
//   STEM.rank-00000-of-00004.safetensors ... STEM.rank-00003-of-00004.safetensors
//
//   tensor [N, K] in the parts     | rows of rank 0 | rows of rank 1 | rows of rank 2 | of rank 3 |
//
// The metadata of a part, beside what safetensors says of the rows that are there:
//
//   "part_of"   what the parts of one whole have in common
//   "rows"      JSON: {"tensor": [its first row here, rows of the whole], ...}; a tensor that is not named is whole
//
// Any rows of a tensor can be read, wherever they lie. Where both kinds of file are there, the one file counts.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "nibble/io/safetensors.h"

namespace nibble {

/// "STEM.safetensors", or that of one of several ranks.
std::string safetensors_part_name(const std::string& stem, int rank, int ranks);

/// A tensor, or rows of it, that is to be written.
struct SafetensorsRows {
  SafetensorsEntry rows;
  std::int64_t first_row = 0;
  std::int64_t of = 0;  ///< rows of the whole; as many as `rows` has where that is all of it
};

/// Writes a rank's part: write_safetensors with the metadata above, and `metadata`. Returns XXH3-64 of the file.
std::uint64_t write_safetensors_part(const std::filesystem::path& path, const std::vector<SafetensorsRows>& tensors,
                                     const std::string& part_of, SafetensorsMetadata metadata = {});

class SafetensorsParts {
 public:
  /// Whether the folder has such a file, or one of the parts.
  static bool exist(const std::filesystem::path& folder, const std::string& stem);

  /// Validates and maps the files. UserError where a part is missing, parts do not belong together, or their rows leave
  /// out some of a tensor, or have some twice.
  SafetensorsParts(const std::filesystem::path& folder, const std::string& stem);

  std::vector<std::string> names() const;
  bool contains(const std::string& name) const { return tensors_.contains(name); }
  /// Of the whole tensor; empty for a scalar. UserError, with the nearest name, where there is none; so are the rest.
  const std::vector<std::int64_t>& shape(const std::string& name) const { return tensor(name).shape; }
  const std::string& dtype(const std::string& name) const { return tensor(name).dtype; }
  /// The tensor's bytes, piece by piece in the order of rows; one piece where no rows were cut.
  std::vector<std::span<const std::byte>> pieces(const std::string& name) const;

  /// Rows [first_row, first_row + n) into `to`, [n, ...] on any device. UserError when dtype or shape differ.
  void read_rows(const std::string& name, std::int64_t first_row, const Tensor& to) const;
  /// The whole tensor; a scalar has shape [1].
  void read(const std::string& name, const Tensor& to) const;
  /// Rows of an F32, BF16 or F16 tensor as F32; `to` is on the CPU. UserError as SafetensorsFile::read_floats.
  void read_float_rows(const std::string& name, std::int64_t first_row, const Tensor& to) const;
  void read_floats(const std::string& name, const Tensor& to) const;

 private:
  struct Piece {
    std::size_t file = 0;
    std::int64_t first_row = 0;
    std::int64_t rows = 0;
    std::span<const std::byte> bytes;
  };
  struct Whole {
    std::string dtype;
    std::vector<std::int64_t> shape;
    std::vector<Piece> pieces;  // by first_row
  };
  const Whole& tensor(const std::string& name) const;
  void add_file(std::size_t file, const std::filesystem::path& path);
  void order_rows();
  /// UserError unless `to` has the shape of rows of the tensor.
  void check_shape(const std::string& name, std::int64_t first_row, const Tensor& to) const;
  [[noreturn]] void wrong_shape(const std::string& name, const Tensor& to) const;
  std::string where() const;  // for messages
  /// Calls f(bytes, row of `to` where they begin, rows) for the rows of each piece that are wanted.
  void for_each_run(const Whole& whole, std::int64_t first_row, std::int64_t rows,
                    const std::function<void(std::span<const std::byte>, std::int64_t, std::int64_t)>& f) const;

  std::filesystem::path folder_;
  std::string stem_;
  std::vector<SafetensorsFile> files_;
  std::vector<std::string> file_names_;
  std::map<std::string, Whole> tensors_;
};

}  // namespace nibble
