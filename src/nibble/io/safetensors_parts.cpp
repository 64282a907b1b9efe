#include "nibble/io/safetensors_parts.h"

#include <algorithm>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "nibble/io/format.h"
#include "nibble/io/format_rules.h"
#include "nibble/io/json.h"
#include "nibble/io/tensor_source.h"
#include "nibble/tensor/device.h"

namespace nibble {

namespace fs = std::filesystem;
using nlohmann::json;

namespace {

constexpr const char* kPartOf = "part_of";
constexpr const char* kRows = "rows";

/// How many ranks wrote the parts that the folder has: the numbers in their names.
std::set<int> numbers_of_ranks(const fs::path& folder, const std::string& stem) {
  std::set<int> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    int rank = 0;
    int ranks = 0;
    if (!name.starts_with(stem + ".rank-")) continue;
    if (std::sscanf(name.c_str() + stem.size(), ".rank-%9d-of-%9d", &rank, &ranks) != 2) continue;
    if (name == safetensors_part_name(stem, rank, ranks)) found.insert(ranks);
  }
  return found;
}

std::vector<std::int64_t> of_tensor(const std::vector<std::int64_t>& shape) {
  return shape.empty() ? std::vector<std::int64_t>{1} : shape;
}

std::string text_of(std::span<const std::int64_t> shape) {
  return json(std::vector<std::int64_t>(shape.begin(), shape.end())).dump();
}

}  // namespace

std::string safetensors_part_name(const std::string& stem, int rank, int ranks) {
  if (ranks == 1) return stem + ".safetensors";
  return fmt::format("{}.rank-{:05}-of-{:05}.safetensors", stem, rank, ranks);
}

std::uint64_t write_safetensors_part(const fs::path& path, const std::vector<SafetensorsRows>& tensors,
                                     const std::string& part_of, SafetensorsMetadata metadata) {
  json rows = json::object();
  std::vector<SafetensorsEntry> entries;
  for (const SafetensorsRows& tensor : tensors) {
    entries.push_back(tensor.rows);
    if (tensor.rows.shape.size() > 1 && tensor.rows.shape[0] != tensor.of) {
      rows[tensor.rows.name] = {tensor.first_row, tensor.of};
    }
  }
  metadata[kPartOf] = part_of;
  metadata[kRows] = rows.dump();
  return write_safetensors(path, std::move(entries), metadata);
}

bool SafetensorsParts::exist(const fs::path& folder, const std::string& stem) {
  return fs::exists(folder / safetensors_part_name(stem, 0, 1)) || !numbers_of_ranks(folder, stem).empty();
}

SafetensorsParts::SafetensorsParts(const fs::path& folder, const std::string& stem) : folder_(folder), stem_(stem) {
  int ranks = 1;
  if (!fs::exists(folder / safetensors_part_name(stem, 0, 1))) {
    const std::set<int> found = numbers_of_ranks(folder, stem);
    if (found.empty()) user_error("'{}' holds no {}", folder.string(), safetensors_part_name(stem, 0, 1));
    ranks = *found.begin();
    if (found.size() > 1) {
      user_error("'{}' holds parts of '{}' that {} ranks wrote and parts that {} wrote: remove those of one",
                 folder.string(), stem, ranks, *found.rbegin());
    }
  }
  for (int rank = 0; rank < ranks; ++rank) {
    const fs::path path = folder / safetensors_part_name(stem, rank, ranks);
    if (!fs::exists(path)) {
      user_error("'{}' is missing, one of {} parts of '{}'", path.string(), ranks, stem);
    }
    files_.emplace_back(path);
    add_file(files_.size() - 1, path);
  }
  order_rows();
}

void SafetensorsParts::add_file(std::size_t file, const fs::path& path) {
  const SafetensorsFile& part = files_[file];
  file_names_.push_back(path.filename().string());
  const FormatRules rules(path, "part of a safetensors file");
  const auto text = part.metadata().find(kRows);
  const bool alone = file == 0 && path.filename() == safetensors_part_name(stem_, 0, 1);
  json rows = json::object();
  if (!alone) {
    const auto part_of = part.metadata().find(kPartOf);
    rules.check(text != part.metadata().end() && part_of != part.metadata().end(), "its metadata lacks {} or {}", kRows,
                kPartOf);
    if (part_of->second != files_[0].metadata().at(kPartOf)) {
      user_error("'{}' and '{}' are not parts of one whole: they are of different jobs or steps", path.string(),
                 file_names_[0]);
    }
    rows = parse_json(text->second, fmt::format("{} of '{}'", kRows, path.string()));
    rules.check(rows.is_object(), "{} is not an object", kRows);
    for (const auto& [name, value] : rows.items()) {
      rules.check(part.contains(name), "{} names tensor '{}', which it does not hold", kRows, name);
    }
  }
  for (const auto& [name, entry] : part.entries()) {
    Piece piece{file, 0, of_tensor(entry.shape)[0], entry.bytes};
    std::vector<std::int64_t> shape = entry.shape;
    if (rows.contains(name)) {
      const json& range = rows[name];
      const bool pair = range.is_array() && range.size() == 2 && range[0].is_number_unsigned() &&
                        range[1].is_number_unsigned() && range[0].get<std::uint64_t>() <= INT64_MAX &&
                        range[1].get<std::uint64_t>() <= INT64_MAX;
      rules.check(pair && !shape.empty(), "the rows of tensor '{}' are {}", name, range.dump());
      piece.first_row = range[0].get<std::int64_t>();
      const std::int64_t of = range[1].get<std::int64_t>();
      rules.check(piece.first_row <= of && piece.rows <= of - piece.first_row,
                  "tensor '{}' has {} rows from row {} of {} on", name, piece.rows, piece.first_row, of);
      shape[0] = of;
    }
    const auto [at, is_new] = tensors_.try_emplace(name, Whole{entry.dtype, shape, {}});
    if (at->second.dtype != entry.dtype || at->second.shape != shape) {
      user_error("tensor '{}' is {} {} in '{}' and {} {} in {}", name, entry.dtype, text_of(shape), path.string(),
                 at->second.dtype, text_of(at->second.shape), file_names_[at->second.pieces[0].file]);
    }
    at->second.pieces.push_back(piece);
  }
}

void SafetensorsParts::order_rows() {
  for (auto& entry : tensors_) {
    const std::string& name = entry.first;
    Whole& whole = entry.second;
    std::ranges::stable_sort(whole.pieces, {}, &Piece::first_row);
    const std::int64_t rows = of_tensor(whole.shape)[0];
    std::int64_t row = 0;  // the first that no piece so far has
    std::size_t last = 0;  // file that has the one before it
    const auto check_gap = [&](std::int64_t end) {
      if (row >= end) return;
      user_error("'{}': rows {} to {} of tensor '{}' are in none of the {} parts of '{}'", folder_.string(), row,
                 end - 1, name, files_.size(), stem_);
    };
    for (const Piece& piece : whole.pieces) {
      if (piece.rows == 0) continue;
      if (piece.first_row < row) {
        user_error("'{}': row {} of tensor '{}' is both in {} and in {}", folder_.string(), piece.first_row, name,
                   file_names_[last], file_names_[piece.file]);
      }
      check_gap(piece.first_row);
      row = piece.first_row + piece.rows;
      last = piece.file;
    }
    check_gap(rows);
  }
}

std::vector<std::string> SafetensorsParts::names() const { return names_of(tensors_); }

const SafetensorsParts::Whole& SafetensorsParts::tensor(const std::string& name) const {
  const auto at = tensors_.find(name);
  if (at == tensors_.end()) no_such_tensor(where(), name, names());
  return at->second;
}

std::vector<std::span<const std::byte>> SafetensorsParts::pieces(const std::string& name) const {
  const Whole& whole = tensor(name);
  std::vector<std::span<const std::byte>> found;
  for_each_run(whole, 0, of_tensor(whole.shape)[0],
               [&](std::span<const std::byte> bytes, std::int64_t, std::int64_t) { found.push_back(bytes); });
  return found;
}

void SafetensorsParts::for_each_run(
    const Whole& whole, std::int64_t first_row, std::int64_t rows,
    const std::function<void(std::span<const std::byte>, std::int64_t, std::int64_t)>& f) const {
  for (const Piece& piece : whole.pieces) {
    const std::int64_t begin = std::max(first_row, piece.first_row);
    const std::int64_t end = std::min(first_row + rows, piece.first_row + piece.rows);
    if (begin >= end) continue;
    const std::size_t row_bytes = piece.bytes.size() / static_cast<std::size_t>(piece.rows);
    f(piece.bytes.subspan(static_cast<std::size_t>(begin - piece.first_row) * row_bytes,
                          static_cast<std::size_t>(end - begin) * row_bytes),
      begin - first_row, end - begin);
  }
}

void SafetensorsParts::check_shape(const std::string& name, std::int64_t first_row, const Tensor& to) const {
  const std::vector<std::int64_t> shape = of_tensor(tensor(name).shape);
  const std::span<const std::int64_t> wanted = to.shape();
  const bool fits = shape.size() == wanted.size() && first_row >= 0 && first_row + wanted[0] <= shape[0] &&
                    std::equal(shape.begin() + 1, shape.end(), wanted.begin() + 1, wanted.end());
  if (!fits) wrong_shape(name, to);
}

void SafetensorsParts::wrong_shape(const std::string& name, const Tensor& to) const {
  user_error("tensor '{}' of '{}' is {} {} where {} is expected", name, where(), tensor(name).dtype,
             text_of(of_tensor(tensor(name).shape)), to_string(to));
}

std::string SafetensorsParts::where() const {
  return files_.size() == 1 ? files_[0].path().string() : (folder_ / stem_).string();
}

void SafetensorsParts::read_rows(const std::string& name, std::int64_t first_row, const Tensor& to) const {
  const Whole& whole = tensor(name);
  if (whole.dtype != dtype_name(to.dtype())) wrong_shape(name, to);
  check_shape(name, first_row, to);
  for_each_run(whole, first_row, to.dim(0), [&](std::span<const std::byte> bytes, std::int64_t row, std::int64_t rows) {
    const std::size_t row_bytes = bytes.size() / static_cast<std::size_t>(rows);
    auto* at = static_cast<std::byte*>(to.raw()) + static_cast<std::size_t>(row) * row_bytes;
    // The bytes of a tensor nobody else sees may lie at any address of the file.
    const auto count = static_cast<std::int64_t>(bytes.size());
    copy(Tensor(const_cast<std::byte*>(bytes.data()), DType::U8, {count}), Tensor(at, DType::U8, {count}, to.device()));
  });
}

void SafetensorsParts::read_float_rows(const std::string& name, std::int64_t first_row, const Tensor& to) const {
  const Whole& whole = tensor(name);
  check_shape(name, first_row, to);
  for_each_run(whole, first_row, to.dim(0), [&](std::span<const std::byte> bytes, std::int64_t row, std::int64_t rows) {
    const std::int64_t columns = to.numel() / to.dim(0);
    if (!decode_floats(whole.dtype, bytes.data(), to.elements(row * columns, (row + rows) * columns))) {
      user_error("tensor '{}' of '{}' is {}; weights are read from F32, BF16 and F16", name, where(), whole.dtype);
    }
  });
}

void SafetensorsParts::read(const std::string& name, const Tensor& to) const {
  if (to.dims() == 0 || to.dim(0) != of_tensor(shape(name))[0]) wrong_shape(name, to);
  read_rows(name, 0, to);
}

void SafetensorsParts::read_floats(const std::string& name, const Tensor& to) const {
  if (to.dims() == 0 || to.dim(0) != of_tensor(shape(name))[0]) wrong_shape(name, to);
  read_float_rows(name, 0, to);
}

}  // namespace nibble
