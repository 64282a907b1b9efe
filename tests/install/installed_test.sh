#!/bin/sh
# Installs a build into a prefix and uses it as a stranger would: the example against find_package(nibble), then every
# header by itself, and the program with its data files, from a prefix that was moved and a folder that has nothing.
# usage: installed_test.sh CMAKE BUILD SOURCE COMPILER
set -eu
cmake=$1 build=$2 source=$3 compiler=$4

for folder in RECIPES MODELS CONFIGS DEVICES LAWS TASKS; do unset "NIBBLE_$folder"; done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

fail() {
  echo "installed_test: $*" >&2
  exit 1
}

# expect PATTERN COMMAND...: the command succeeds, and a line of what it prints matches.
expect() {
  pattern=$1
  shift
  "$@" > output 2>&1 || fail "$* failed: $(cat output)"
  grep -q -e "$pattern" output || fail "$* does not print '$pattern': $(cat output)"
}

# example PREFIX: builds the example in a copy of its own and runs it; its output is in PREFIX.txt.
example() {
  mkdir "example-$1"
  cp "$source"/examples/quantise_and_train/* "example-$1"
  "$cmake" -S "example-$1" -B "example-$1/build" -G Ninja -DCMAKE_PREFIX_PATH="$work/$1" -DCMAKE_CXX_COMPILER="$compiler" \
    -DCMAKE_BUILD_TYPE=Debug -DCMAKE_CXX_FLAGS='-Wall -Wextra -Werror' > "$1.log" 2>&1 || fail "$(cat "$1.log")"
  "$cmake" --build "example-$1/build" > "$1.log" 2>&1 || fail "$(cat "$1.log")"
  "example-$1/build/quantise_and_train" > "$1.txt"
}

"$cmake" --install "$build" --prefix "$work/first" > install.log 2>&1 || fail "$(cat install.log)"
example first
mv first moved
example moved
cmp -s first.txt moved.txt || fail "the moved library computes something else: $(cat first.txt moved.txt)"

# 4.5 bits an element and the tensor's scale; the sum without rounding; a loss that falls.
grep -q '^NVFP4: 73732 bytes of 524288, 20\.[0-9]* dB$' moved.txt || fail "$(cat moved.txt)"
awk '/^product by int8: / { sub(",", "", $7); exact = $7 != 0 && $7 == $9 }
     /^quartet2 step / { sub(":", "", $3); ++steps; if (steps == 1) first = $5; last = $5 }
     END { exit !(exact && steps == 4 && first < 4.5 && last < first - 1) }' moved.txt || fail "$(cat moved.txt)"

(cd moved/include && find nibble -name '*.h') > headers
xargs -n 1 -P "$(nproc)" sh "$source/tests/install/check_header.sh" "$compiler" "$work/moved/include" "$work" < headers ||
  fail 'headers'
[ "$(find . -maxdepth 1 -name '*.h.d' | wc -l)" = "$(wc -l < headers)" ] || fail 'not every header was compiled'
if grep -l -E '/(nlohmann|CLI|oneapi|hwy|toml\+\+|simdjson\.h|omp\.h|sentencepiece)' ./*.h.d; then
  fail 'these headers include a library that only nibble itself is built on'
fi

mkdir empty
cd empty
program=$work/moved/bin/nibble
expect '^quartet2 ' "$program" recipes list
expect "llama2-7b" "$program" cost --model llama2-7b --recipe wang2025 --device b200 --tokens 1T
expect '^width = ' "$program" train --config demo --print-config
