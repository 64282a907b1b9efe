// The recipes that nibble ships, for tests of every one of them.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "nibble/recipe/recipe.h"

namespace nibble::testing_support {

/// Their files by path within the source tree, in order: "recipes/bf16.toml".
inline std::vector<std::string> shipped_recipes() {
  namespace fs = std::filesystem;
  std::vector<std::string> files;
  for (const auto& entry : fs::recursive_directory_iterator(NIBBLE_SOURCE_DIR "/recipes")) {
    if (entry.path().extension() == ".toml") {
      files.push_back(entry.path().lexically_relative(NIBBLE_SOURCE_DIR).string());
    }
  }
  std::sort(files.begin(), files.end());
  return files;
}

/// A test of one of them; its parameter is the file.
class ShippedRecipe : public ::testing::TestWithParam<std::string> {
 protected:
  Recipe recipe_ = load_recipe(std::string(NIBBLE_SOURCE_DIR "/") + GetParam());
};

/// The name of the recipe, as that of a test.
inline std::string recipe_test_name(const ::testing::TestParamInfo<std::string>& test) {
  std::string name = std::filesystem::path(test.param).stem().string();
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

}  // namespace nibble::testing_support
