#!/bin/bash
# tests/dist/kills.sh NIBBLE FOLDER [KILLS [RANKS [train's arguments...]]]: random ranks are killed at random moments (100 of
# them, on 2 ranks) while their run starts itself again; a run that ends before enough are killed is followed by another.
# Passes when no newest checkpoint was ever unreadable and every run ends with the bits of one process that nobody
# killed. FOLDER gets the runs; SEED chooses the moments, which are up to LONGEST (3) seconds apart. Several ranks write
# other files than one does: so one process makes the last steps, from the checkpoint before the last.
set -eu
nibble=$1
folder=$2
kills=${3:-100}
ranks=${4:-2}
shift $(($# < 4 ? $# : 4))
RANDOM=${SEED:-1}
mkdir -p "$folder"
export NIBBLE_DIST_TIMEOUT=60 OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$nibble" train "$@" --deterministic --out "$folder/whole" > "$folder/whole.log" 2>&1

ranks_of() {
  for process in /proc/[0-9]*; do
    { tr '\0' ' ' < "$process/cmdline" | grep -aF -- "--out $1 "; } > /dev/null 2>&1 &&
      { tr '\0' '\n' < "$process/environ" | grep -a '^OMPI_COMM_WORLD_RANK='; } > /dev/null 2>&1 && echo "${process#/proc/}"
  done
  return 0
}

last_checkpoint() { printf '%s\n' "$1"/checkpoints/step-*/ | tail -n 1; }

killed=0
restarts=0
runs=0
while [ "$killed" -lt "$kills" ]; do
  runs=$((runs + 1))
  run=$folder/killed-$runs
  "$nibble" train "$@" --deterministic --ranks "$ranks" --restarts 100000 --out "$run" > "$run.log" 2>&1 &
  job=$!
  while kill -0 "$job" 2> /dev/null && [ "$killed" -lt "$kills" ]; do
    sleep "$((RANDOM % ${LONGEST:-3})).$((RANDOM % 900 + 100))"
    mapfile -t alive < <(ranks_of "$run")
    [ "${#alive[@]}" = "$ranks" ] || continue  # the job is starting, or dying already
    kill -KILL "${alive[RANDOM % ${#alive[@]}]}" 2> /dev/null && killed=$((killed + 1))
  done
  wait "$job" || { echo "the run ended with code $?: $run.log"; exit 1; }
  restarts=$((restarts + $(grep -ac '; restart ' "$run.log" || true)))
  if grep -a 'trying the checkpoint before it' "$run.log"; then
    echo "a newest checkpoint could not be read"
    exit 1
  fi
  rm -r "$(last_checkpoint "$run")"
  "$nibble" train "$@" --deterministic --resume-or-begin --out "$run" > "$run-end.log" 2>&1
  for file in model.safetensors optimizer.safetensors; do
    cmp "$(last_checkpoint "$folder/whole")$file" "$(last_checkpoint "$run")$file"
  done
  echo "run $runs: $killed ranks killed so far, $restarts restarts, the same bits"
done
