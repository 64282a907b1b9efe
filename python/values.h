// Plain values between Python and the texts that the library reads and writes.
#pragma once

#include <nanobind/nanobind.h>

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace nibble::python {

/// A Python value as TOML: bool, int, float, str, path, list and dict. UserError, which calls it `name`, for others.
std::string toml_of(nanobind::handle value, const std::string& name);

/// A dict as assignments "a.b=value" for ConfigTable::set; a dict in it is a table.
std::vector<std::string> assignments_of(const nanobind::dict& settings);

/// Objects are dicts, null is None.
nanobind::object to_python(const nlohmann::json& value);

/// A call's path or name: str or os.PathLike.
std::string path_text(nanobind::handle path);

}  // namespace nibble::python
