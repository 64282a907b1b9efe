// Recipes by name.
#include <algorithm>
#include <cstdlib>

#include "nibble/io/suggest.h"
#include "nibble/recipe/names.h"
#include "nibble/recipe/recipe.h"
#include "nibble/tensor/error.h"

namespace nibble {

namespace {

namespace fs = std::filesystem;

std::vector<fs::path> recipe_folders() {
  std::vector<fs::path> folders;
  if (const char* env = std::getenv("NIBBLE_RECIPES")) folders.emplace_back(env);
  folders.emplace_back("recipes");
  std::error_code ignored;
  const fs::path program = fs::read_symlink("/proc/self/exe", ignored).parent_path();
  folders.push_back(program.parent_path() / "recipes");
  folders.push_back(program.parent_path() / "share" / "nibble" / "recipes");
  return folders;
}

/// The recipe files of a folder and its sub-folders, sorted: those of the folder itself first.
std::vector<fs::path> recipe_files(const fs::path& folder) {
  std::vector<fs::path> own;
  std::vector<fs::path> deeper;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator(folder, ignored)) {
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

std::vector<std::string> known_recipes() {
  std::vector<std::string> names;
  for (const fs::path& folder : recipe_folders()) {
    for (const fs::path& file : recipe_files(folder)) names.push_back(file.stem().string());
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

fs::path find_recipe(const std::string& name) {
  if (name.find('/') != std::string::npos || name.ends_with(".toml")) return name;
  for (const fs::path& folder : recipe_folders()) {
    for (const fs::path& file : recipe_files(folder)) {
      if (file.stem() == name) return file;
    }
  }
  const std::vector<std::string> known = known_recipes();
  if (known.empty()) {
    user_error(
        "the recipe '{}' can't be looked up, for there is no recipe folder here: set NIBBLE_RECIPES to one, or give "
        "the path of a .toml file",
        name);
  }
  user_error("there is no recipe '{}' among {}{}", name, joined(known), did_you_mean(name, known));
}

}  // namespace nibble
