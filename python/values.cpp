#include "python/values.h"

#include <nanobind/stl/filesystem.h>
#include <nanobind/stl/string.h>

#include <cmath>

#include "nibble/tensor/error.h"

namespace nibble::python {

namespace nb = nanobind;

namespace {

std::string quoted(const std::string& text) { return nlohmann::json(text).dump(); }  // escapes are TOML's, too

std::string text_of(nb::handle value) { return nb::cast<std::string>(nb::str(value)); }

void add_assignments(const nb::dict& settings, const std::string& prefix, std::vector<std::string>& assignments) {
  for (const auto& [key, value] : settings) {
    const std::string name = prefix + text_of(key);
    if (nb::isinstance<nb::dict>(value)) {
      add_assignments(nb::cast<nb::dict>(value), name + ".", assignments);
    } else {
      assignments.push_back(name + "=" + toml_of(value, name));
    }
  }
}

}  // namespace

std::string path_text(nb::handle path) { return nb::cast<std::filesystem::path>(path).string(); }

std::string toml_of(nb::handle value, const std::string& name) {
  if (nb::isinstance<nb::bool_>(value)) return nb::cast<bool>(value) ? "true" : "false";
  if (nb::isinstance<nb::str>(value)) return quoted(nb::cast<std::string>(value));
  if (nb::hasattr(value, "__fspath__")) return quoted(path_text(value));
  if (nb::isinstance<nb::list>(value) || nb::isinstance<nb::tuple>(value)) {
    std::string list;
    for (const nb::handle item : value) list += (list.empty() ? "" : ", ") + toml_of(item, name);
    return "[" + list + "]";
  }
  if (nb::isinstance<nb::dict>(value)) {
    std::string table;
    for (const auto& [key, item] : nb::cast<nb::dict>(value)) {
      const std::string word = text_of(key);
      table += (table.empty() ? "" : ", ") + quoted(word) + " = " + toml_of(item, name + "." + word);
    }
    return "{" + table + "}";
  }
  // NumPy's scalars too.
  if (PyIndex_Check(value.ptr())) return text_of(nb::steal(PyNumber_Index(value.ptr())));
  if (nb::hasattr(value, "__float__")) {
    const double number = PyFloat_AsDouble(value.ptr());
    if (number == -1.0 && PyErr_Occurred()) throw nb::python_error();
    if (!std::isfinite(number)) return std::isnan(number) ? "nan" : number > 0 ? "inf" : "-inf";
    return text_of(nb::repr(nb::float_(number)));
  }
  user_error("{} is {}, must be a bool, number, text, path, list or dict", name, text_of(nb::repr(value)));
}

std::vector<std::string> assignments_of(const nb::dict& settings) {
  std::vector<std::string> assignments;
  add_assignments(settings, "", assignments);
  return assignments;
}

nb::object to_python(const nlohmann::json& value) {
  switch (value.type()) {
    case nlohmann::json::value_t::object: {
      nb::dict dict;
      for (const auto& [key, item] : value.items()) dict[key.c_str()] = to_python(item);
      return dict;
    }
    case nlohmann::json::value_t::array: {
      nb::list list;
      for (const auto& item : value) list.append(to_python(item));
      return list;
    }
    case nlohmann::json::value_t::string: return nb::cast(value.get_ref<const std::string&>());
    case nlohmann::json::value_t::boolean: return nb::bool_(value.get<bool>());
    case nlohmann::json::value_t::number_integer: return nb::int_(value.get<std::int64_t>());
    case nlohmann::json::value_t::number_unsigned: return nb::int_(value.get<std::uint64_t>());
    case nlohmann::json::value_t::number_float: return nb::float_(value.get<double>());
    default: return nb::none();
  }
}

}  // namespace nibble::python
