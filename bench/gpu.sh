#!/bin/sh
# bench/gpu.sh PROGRAMS [OUT]: everything that needs a GPU, in one call. PROGRAMS is the folder of the built programs
# (build/, or bundle/bin of scripts/bundle.sh); OUT receives logs and figures. CHECKS=0 skips the tests, BENCHES=0 the
# benchmarks, PEERS=0 PyTorch's training steps (the reference row); FILTER chooses tests by name.
set -u
programs=$1
out=${2:-runs/gpu}
mkdir -p "$out"
find_program() {
  for place in "$programs" "$programs/tests" "$programs/bench"; do
    [ -x "$place/$1" ] && { echo "$place/$1"; return; }
  done
}
here=$(dirname "$0")
system_libraries=${LD_LIBRARY_PATH:-}
# shellcheck source=/dev/null
. "$here/libraries.sh"

echo "date    $(date -u +%Y-%m-%d)"
echo "commit  ${COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}"
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader | sed 's/^/device  /'

if [ "${CHECKS:-1}" = 1 ]; then
  for room in ops quant optim recipe model train; do
    program=$(find_program "${room}_tests")
    [ -n "$program" ] || continue
    start=$(date +%s)
    timeout "${LIMIT:-150}" "$program" --gtest_filter="${FILTER:-*Cuda*:*OnTheGpu*}" --gtest_brief=1 > "$out/test-$room.log" 2>&1
    code=$?
    echo "test    $room: exit $code, $(($(date +%s) - start)) s, $(grep -c '^\[  FAILED  \]' "$out/test-$room.log") failure lines," \
      "$(sed -n 's/^\[  PASSED  \] //p' "$out/test-$room.log") passed"
    [ "$code" = 0 ] || grep -E '^\[  FAILED  \]' "$out/test-$room.log" | sort -u | head -n "${SHOW:-25}"
  done
fi

if [ "${BENCHES:-1}" = 1 ]; then
  program=$(find_program nibble_bench)
  if [ -n "$program" ]; then
    "$program" --benchmark_filter="${BENCH_FILTER:-^cuda_}" --benchmark_min_time="${MIN_TIME:-0.2}" > "$out/bench.log" 2>&1
    cut -c -200 "$out/bench.log" | grep '^cuda_'
  fi
fi

# PyTorch with the libraries it came with: the models of the training-step benchmarks, BF16, torch.compile.
peer() { # MODEL BATCH
  LD_LIBRARY_PATH=$system_libraries timeout 240 python3 "$here/peers/torch_llama.py" "$here/../models/$1.toml" --device cuda \
    --dtype bf16 --compile --batch "$2" > "$out/torch-$1.log" 2>&1
  echo "peer    $(tail -n 1 "$out/torch-$1.log")"
}
if [ "${PEERS:-1}" = 1 ]; then
  if LD_LIBRARY_PATH=$system_libraries python3 -c 'import sys, torch; sys.exit(not torch.cuda.is_available())' 2> /dev/null; then
    peer quartet-30m 64
    peer llama-1.3b 8
  else
    echo 'peer    skipped: python3 has no PyTorch that can use a GPU here'
  fi
fi
