#include "nibble/io/data_file.h"

#include <dlfcn.h>
#include <link.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "nibble/io/format.h"
#include "nibble/io/suggest.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace fs = std::filesystem;

namespace {

std::string variable_of(const std::string& folder) {
  std::string name = "NIBBLE_" + folder;
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

/// The file that this code was loaded from: the program, or a library that is part of it.
fs::path own_file() {
  static const char here = 0;
  Dl_info info;
  link_map* loaded = nullptr;
  std::error_code ignored;
  if (dladdr1(&here, &info, reinterpret_cast<void**>(&loaded), RTLD_DL_LINKMAP) != 0 && loaded != nullptr &&
      loaded->l_name[0] != '\0') {  // the program itself has no name here
    return fs::canonical(loaded->l_name, ignored);
  }
  return fs::read_symlink("/proc/self/exe", ignored);
}

std::vector<fs::path> places_of(const std::string& folder) {
  std::vector<fs::path> places;
  if (const char* chosen = std::getenv(variable_of(folder).c_str())) places.emplace_back(chosen);
  places.emplace_back(folder);
  const fs::path beside = own_file().parent_path();
  const fs::path above = beside.parent_path();
  places.push_back(above / folder);
  // PREFIX/_core.so of a Python package, PREFIX/bin/nibble, PREFIX/lib/libnibble.so,
  // PREFIX/lib/x86_64-linux-gnu/libnibble.so
  for (const fs::path& prefix : {beside, above, above.parent_path()})
    places.push_back(prefix / "share" / "nibble" / folder);
  return places;
}

/// The files of a place and its sub-folders, sorted: those of the place itself first.
std::vector<fs::path> files_of(const fs::path& place) {
  std::vector<fs::path> own;
  std::vector<fs::path> deeper;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(place, ignored)) {
    if (entry.is_directory(ignored)) {
      for (const auto& inner : fs::directory_iterator(entry.path(), ignored)) {
        if (inner.path().extension() == ".toml") deeper.push_back(inner.path());
      }
    } else if (entry.path().extension() == ".toml") {
      own.push_back(entry.path());
    }
  }
  std::sort(own.begin(), own.end());
  std::sort(deeper.begin(), deeper.end());
  own.insert(own.end(), deeper.begin(), deeper.end());
  return own;
}

}  // namespace

std::vector<std::string> known_data_files(const std::string& folder) {
  std::vector<std::string> names;
  for (const fs::path& place : places_of(folder)) {
    for (const fs::path& file : files_of(place)) names.push_back(file.stem().string());
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

fs::path find_data_file(const std::string& folder, const std::string& name, const char* what) {
  if (name.find('/') != std::string::npos || name.ends_with(".toml")) return name;
  for (const fs::path& place : places_of(folder)) {
    for (const fs::path& file : files_of(place)) {
      if (file.stem() == name) return file;
    }
  }
  const std::vector<std::string> known = known_data_files(folder);
  if (known.empty()) {
    user_error(
        "the {} '{}' can't be looked up, for there is no folder {}/ here: set {} to one, or give the path of a .toml "
        "file",
        what, name, folder, variable_of(folder));
  }
  user_error("there is no {} '{}' among {}{}", what, name, join_names(known), did_you_mean(name, known));
}

}  // namespace nibble
