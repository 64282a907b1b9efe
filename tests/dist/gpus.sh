#!/bin/sh
# gpus.sh N PROGRAM [ARGUMENT...]: starts N ranks of a program on this host's GPUs with the variables that torchrun sets,
# for tests on machines without mpirun. Exits with the status of the first rank that fails, after ending the others.
set -eu
[ $# -ge 2 ] || {
  echo 'usage: gpus.sh N PROGRAM [ARGUMENT...]' >&2
  exit 2
}
count=$1
shift
export WORLD_SIZE="$count" LOCAL_WORLD_SIZE="$count" MASTER_ADDR="${MASTER_ADDR:-127.0.0.1}" MASTER_PORT="${MASTER_PORT:-29517}"
export NIBBLE_TEST_DEVICE="${NIBBLE_TEST_DEVICE:-cuda}" NCCL_NVLS_ENABLE=0
pids=
rank=0
while [ "$rank" -lt "$count" ]; do
  RANK=$rank LOCAL_RANK=$rank "$@" &
  pids="$pids $!"
  rank=$((rank + 1))
done
status=0
for pid in $pids; do
  code=0
  wait "$pid" || code=$?
  if [ "$code" != 0 ] && [ "$status" = 0 ]; then
    status=$code
    for other in $pids; do
      kill "$other" 2> /dev/null || true
    done
  fi
done
exit "$status"
