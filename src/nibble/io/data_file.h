// Data files by name: recipes/, models/, configs/, devices/, laws/, tasks/, chat_templates/, at the root of the source
// or installed.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

namespace nibble {

/// FOLDER/NAME.toml, or in a sub-folder, in the first place that has it: $NIBBLE_FOLDER (in capitals, where set), the
/// current folder, the folder above the program's or library's, the share/nibble that was installed with it. A name
/// with a slash or ending in ".toml" is a path, returned as it is. `what` names the kind in the message: "there is no
/// recipe 'quartett' among ...".
std::filesystem::path find_data_file(const std::string& folder, const std::string& name_or_path, const char* what);
/// All names that find_data_file knows, sorted.
std::vector<std::string> known_data_files(const std::string& folder);

}  // namespace nibble
