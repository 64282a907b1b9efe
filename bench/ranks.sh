#!/bin/sh
# bench/ranks.sh PROGRAMS TOKENS OUT [GPUS]: what several GPUs of one host (2) give over one of them, in one call: tokens/s of
# training with as much work a GPU (weak scaling), by what gradients travel as. PROGRAMS is the folder of the built
# programs, TOKENS a folder that `nibble data prepare` wrote. MODELS, RECIPES, EXCHANGES, BATCH (sequences a GPU and step),
# PASSES (that they are cut into) and STEPS choose the runs; LIMIT is in seconds. A run is killed after its last step,
# since writing a checkpoint of such a model takes longer than its steps. Run it in the repository's root.
set -u
[ $# -ge 3 ] || { echo "usage: $0 PROGRAMS TOKENS OUT [GPUS]" >&2; exit 2; }
began=$(date +%s)
programs=$(cd "$1" && pwd) || exit 2
tokens=$(cd "$2" && pwd) || exit 2
mkdir -p "$3"
out=$(cd "$3" && pwd)
gpus=${4:-2}
limit=${LIMIT:-540}
steps=${STEPS:-12}
batch=${BATCH:-8}
passes=${PASSES:-1}
# shellcheck source=/dev/null
. "$(dirname "$0")/libraries.sh"

echo "ranks   $(date -u +%Y-%m-%d), commit ${COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}," \
  "$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -n 1)"

# rate FOLDER: tokens/s, the median of the steps after the third.
rate() {
  sed -n 's/.*"step":\([0-9]*\),.*"tokens_per_second":\([0-9.e+]*\).*/\1 \2/p' "$1/metrics.jsonl" 2> /dev/null |
    awk '$1 > 3 { print $2 }' | sort -n | awk '{ v[NR] = $1 } END { if (NR) printf "%.0f", v[int((NR + 1) / 2)] }'
}

# one MODEL RECIPE EXCHANGE RANKS
one() {
  name=$(basename "$1")-$(basename "$2" .toml)-$3-$4
  folder=$out/$name
  rm -rf "$folder"
  [ $(($(date +%s) - began)) -lt "$limit" ] || { echo "later   $name"; return; }
  ranks=$4
  set -- "$programs/nibble" train --config configs/league-30m.toml --recipe "$2" --out "$folder" \
    --set model.file="$1" --set model.seq="${SEQ:-2048}" --set data.dir="$tokens" --set train.device="${DEVICE:-cuda}" \
    --set train.batch=$((batch * ranks)) --set train.micro_batch=$((batch / passes)) --set train.steps=100000 \
    --set train.exchange="$3" --set train.recompute="${RECOMPUTE:-none}" --set optimizer.kind="${OPTIMIZER:-adamw}" \
    --set train.gradients="${GRADIENTS:-f32}" --set log.validate_every=0 --set log.quality_every=0 --set log.checkpoint_every=0
  # In a session of its own, so that all its processes can be killed at once.
  if [ "$ranks" = 1 ]; then
    CUDA_VISIBLE_DEVICES=0 setsid "$@" > "$folder.log" 2>&1 &
  else
    setsid tests/dist/gpus.sh "$ranks" "$@" > "$folder.log" 2>&1 &
  fi
  job=$!
  while kill -0 "$job" 2> /dev/null; do
    sleep 0.5
    [ "$(wc -l 2> /dev/null < "$folder/metrics.jsonl" || echo 0)" -ge "$steps" ] && break
    [ $(($(date +%s) - began)) -lt "$limit" ] || break
  done
  kill -KILL "-$job" 2> /dev/null
  wait "$job" 2> /dev/null
  rate=$(rate "$folder")
  if [ -n "$rate" ]; then
    echo "run     $name: $rate tokens/s, loss $(tail -n 1 "$folder/metrics.jsonl" | sed -n 's/.*"loss":\([0-9.]*\).*/\1/p')"
  else
    echo "failed  $name: $(tail -n 1 "$folder.log")"
  fi
}

for model in ${MODELS:-llama-1.3b}; do
  for recipe in ${RECIPES:-bf16 recipes/ablations/wang2025-fused.toml}; do
    one "$model" "$recipe" stored 1
    alone=$rate
    for exchange in ${EXCHANGES:-stored bf16 fp8}; do
      one "$model" "$recipe" "$exchange" "$gpus"
      [ -n "$alone" ] && [ -n "$rate" ] &&
        echo "        $(awk -v a="$alone" -v b="$rate" -v n="$gpus" 'BEGIN { printf "%.1f %% of %d times one GPU", 100 * b / a / n, n }')"
    done
  done
done
