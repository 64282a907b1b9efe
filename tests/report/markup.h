// A strict reader of the markup that the report writes, independent of the writer.
#pragma once

#include <cctype>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <vector>

namespace nibble {

struct Element {
  std::string name;
  std::map<std::string, std::string> attributes;
  std::string text;               ///< character data directly inside, entities as written
  std::vector<std::string> path;  ///< names of the elements around it
};

/// All elements in the order of their opening tags. Throws std::runtime_error when tags are not balanced, an
/// attribute is not quoted or given twice, or text holds a bare '<', '>' or '&'.
inline std::vector<Element> parse_markup(const std::string& page) {
  std::vector<Element> elements;
  std::vector<std::size_t> open;
  std::size_t at = 0;
  const auto fail = [&](const std::string& what) -> void {
    throw std::runtime_error(what + " near: " + page.substr(at > 60 ? at - 60 : 0, 120));
  };
  const auto check_entities = [&](const std::string& text) {
    static const std::set<std::string> kEntities = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"};
    for (std::size_t i = text.find('&'); i != std::string::npos; i = text.find('&', i + 1)) {
      const std::size_t end = text.find(';', i);
      if (end == std::string::npos || kEntities.count(text.substr(i, end - i + 1)) == 0) fail("bare &");
    }
    if (text.find('>') != std::string::npos) fail("bare >");
  };
  if (page.starts_with("<!DOCTYPE html>")) at = 15;
  while (at < page.size()) {
    const std::size_t tag = page.find('<', at);
    const std::string text = page.substr(at, tag - at);
    check_entities(text);
    if (!open.empty()) elements[open.back()].text += text;
    if (tag == std::string::npos) break;
    at = tag + 1;
    if (page[at] == '/') {
      const std::size_t end = page.find('>', at);
      const std::string name = page.substr(at + 1, end - at - 1);
      if (open.empty() || elements[open.back()].name != name) fail("</" + name + "> closes nothing");
      open.pop_back();
      at = end + 1;
      continue;
    }
    Element element;
    while (at < page.size() && (std::isalnum(static_cast<unsigned char>(page[at])) || page[at] == '-')) {
      element.name += page[at++];
    }
    if (element.name.empty()) fail("bare <");
    bool closed = false;
    for (;;) {
      while (page.at(at) == ' ' || page.at(at) == '\n') ++at;
      if (page[at] == '/') {
        closed = true;
        ++at;
        continue;
      }
      if (page[at] == '>') break;
      std::string name;
      while (page.at(at) != '=') {
        if (!std::isalnum(static_cast<unsigned char>(page[at])) && page[at] != '-') fail("bad attribute");
        name += page[at++];
      }
      if (page.at(++at) != '"') fail("unquoted attribute");
      const std::size_t end = page.find('"', at + 1);
      const std::string value = page.substr(at + 1, end - at - 1);
      if (value.find('<') != std::string::npos) fail("< in an attribute");
      check_entities(value);
      if (!element.attributes.emplace(name, value).second) fail("attribute twice");
      at = end + 1;
    }
    ++at;
    for (std::size_t i : open) element.path.push_back(elements[i].name);
    elements.push_back(element);
    if (closed) continue;
    if (element.name == "script" || element.name == "style") {
      const std::size_t end = page.find("</" + element.name + ">", at);
      if (end == std::string::npos) fail("unclosed " + element.name);
      elements.back().text = page.substr(at, end - at);
      at = end + element.name.size() + 3;
      continue;
    }
    open.push_back(elements.size() - 1);
  }
  if (!open.empty()) fail("unclosed <" + elements[open.back()].name + ">");
  return elements;
}

inline bool has_class(const Element& element, const std::string& name) {
  const auto it = element.attributes.find("class");
  return it != element.attributes.end() && (" " + it->second + " ").find(" " + name + " ") != std::string::npos;
}

}  // namespace nibble
