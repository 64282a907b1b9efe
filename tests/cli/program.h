// The program as a child process, run in the source folder.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstdio>
#include <string>

namespace nibble {

struct Output {
  int code = -1;
  std::string text;  ///< both streams
};

/// A line of the shell.
inline Output run_line(const std::string& line) {
  const std::string command = "cd " NIBBLE_SOURCE_DIR " && " + line + " 2>&1";
  std::FILE* pipe = popen(command.c_str(), "r");
  Output out;
  char buffer[4096];
  for (std::size_t n; (n = fread(buffer, 1, sizeof buffer, pipe)) > 0;) out.text.append(buffer, n);
  const int status = pclose(pipe);
  out.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  return out;
}

inline Output run(const std::string& arguments, const std::string& environment = "") {
  return run_line(environment + " " NIBBLE_BINARY_DIR "/nibble " + arguments);
}

/// A user's mistake gets exit code 2 and one sentence, with `expected` in it.
inline void expect_mistake(const std::string& arguments, const std::string& expected) {
  const Output out = run(arguments);
  EXPECT_EQ(out.code, 2) << arguments << "\n" << out.text;
  EXPECT_NE(out.text.find(expected), std::string::npos) << arguments << "\n" << out.text;
  EXPECT_EQ(std::count(out.text.begin(), out.text.end(), '\n'), 1) << arguments << "\n" << out.text;
}

}  // namespace nibble
