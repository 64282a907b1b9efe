#!/bin/sh
# Compiles an installed header by itself, without a warning, and writes which files it includes to FOLDER/HEADER.d.
# usage: check_header.sh COMPILER INCLUDE FOLDER HEADER
set -eu
dependencies=$3/$(echo "$4" | tr / _).d
echo "#include <$4>" | "$1" -std=c++20 -Wall -Wextra -Werror -fsyntax-only -MD -MF "$dependencies" -I "$2" -x c++ - || {
  echo "the installed header $4 does not compile by itself" >&2
  exit 1
}
