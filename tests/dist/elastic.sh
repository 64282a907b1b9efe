#!/bin/bash
# tests/dist/elastic.sh NIBBLE FOLDER "RANKS..." [train's arguments...]: a run that each of these numbers of ranks takes a step
# further, from what the one before it wrote (EACH, 8), must end with the bits of one process that made them all.
# FOLDER gets the runs. Ranks are started by mpirun.
set -eu
nibble=$1
folder=$2
read -ra counts <<< "$3"
shift 3
each=${EACH:-8}
mkdir -p "$folder"
settings=(--deterministic "--set=train.steps=$((each * (${#counts[@]} + 1)))" "--set=log.checkpoint_every=$each" --set log.keep_checkpoints=100)
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
"$nibble" train "$@" "${settings[@]}" --out "$folder/whole" > "$folder/whole.log" 2>&1
run=$folder/elastic
step=0
# One process makes the last steps: several ranks write other files than it does.
for ranks in "${counts[@]}" 1; do
  "$nibble" train "$@" "${settings[@]}" --ranks "$ranks" --resume-or-begin --out "$run" > "$folder/from-$step-on-$ranks.log" 2>&1
  [ "$step" = 0 ] || grep -aqE "step $step\b" "$folder/from-$step-on-$ranks.log" || { echo "$ranks ranks did not go on from step $step"; exit 1; }
  step=$((step + each))
  for checkpoint in "$run"/checkpoints/step-*/; do
    number=$(basename "$checkpoint")
    [ "$((10#${number#step-}))" -le "$step" ] || rm -r "$checkpoint"
  done
done
last=$(printf '%s\n' "$run"/checkpoints/step-*/ | tail -n 1)
for file in model.safetensors optimizer.safetensors; do
  cmp "$folder/whole/checkpoints/$(basename "$last")/$file" "$last/$file"
done
echo "ranks ${counts[*]}, then 1: the same bits"
