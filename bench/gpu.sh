#!/bin/sh
# bench/gpu.sh PROGRAMS [OUT]: everything that needs a GPU, in one call. PROGRAMS is the folder of the built programs
# (build/, or bundle/bin of scripts/bundle.sh); OUT receives logs and figures. CHECKS=0 skips the tests, BENCHES=0 the
# benchmarks, RUNS=0 the training steps; FILTER chooses tests by name.
set -u
programs=$1
out=${2:-runs/gpu}
mkdir -p "$out"
find_program() {
  for place in "$programs" "$programs/tests" "$programs/bench"; do
    [ -x "$place/$1" ] && { echo "$place/$1"; return; }
  done
}

# cuBLASLt and cuDNN where a Python environment brings them.
if site=$(python3 -c 'import site; print(site.getsitepackages()[0])' 2> /dev/null); then
  for folder in "$site"/nvidia/*/lib; do LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$folder; done
fi
[ -d "$programs/../lib" ] && LD_LIBRARY_PATH=$programs/../lib:${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH

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
