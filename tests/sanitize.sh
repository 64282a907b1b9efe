#!/bin/sh
# tests/sanitize.sh PROGRAMS OUT [SECONDS]: compute-sanitizer's memcheck, racecheck and synccheck over the GPU tests of the folder
# PROGRAMS, in parallel, until SECONDS (560) are over; a line for each part, whole logs in OUT. Attention is left out: cuDNN's
# kernels take too long under it. Hazards in kernels called nvjet_* are cuBLASLt's own: racecheck does not follow the barriers
# by which their copies through TMA are awaited. Run it in the repository's root.
set -u
[ $# -ge 2 ] || { echo "usage: $0 PROGRAMS OUT [SECONDS]" >&2; exit 2; }
programs=$(cd "$1" && pwd) || exit 2
mkdir -p "$2"
out=$(cd "$2" && pwd)
ends=$(($(date +%s) + ${3:-560}))
# shellcheck source=/dev/null
. "$(dirname "$0")/../bench/libraries.sh"
sanitizer=$(command -v compute-sanitizer || echo /usr/local/cuda/bin/compute-sanitizer)
[ -x "$sanitizer" ] || { echo "$0: there is no compute-sanitizer" >&2; exit 2; }
export programs out ends sanitizer OMP_NUM_THREADS=1

# shellcheck disable=SC2016  # the inner shell's variables
for tool in memcheck racecheck synccheck; do
  for part in tensor:1 optim:1 recipe:2 ops:8 quant:6; do
    shards=${part#*:}
    shard=0
    while [ "$shard" -lt "$shards" ]; do
      echo "$tool ${part%:*} $shards $shard"
      shard=$((shard + 1))
    done
  done
done | xargs -P "$(nproc)" -L 1 sh -c '
  left=$((ends - $(date +%s)))
  [ "$left" -gt 10 ] || { echo "$0 $1 $3/$2: not begun"; exit 0; }
  log=$out/$0-$1-$3.log
  export GTEST_TOTAL_SHARDS=$2 GTEST_SHARD_INDEX=$3
  timeout "$left" "$sanitizer" --tool "$0" --error-exitcode 9 --report-api-errors no "$programs/$1_tests" --gtest_color=no \
    --gtest_filter="*Cuda*-*CudaAttention*:*CudaScore*" > "$log" 2>&1
  code=$?
  ours=$(grep -E "^=+ (Error|Warning): (Race|Potential)" "$log" | grep -vc nvjet_)
  echo "$0 $1 $3/$2: exit code $code, $(grep -c "^\[       OK" "$log") tests passed," \
    "$(grep -E "SUMMARY" "$log" | tail -n 1 | tr -d =), hazards of nibble: $ours"'
