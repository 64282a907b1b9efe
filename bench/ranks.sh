#!/bin/sh
# bench/ranks.sh PROGRAMS TOKENS OUT [GPUS]: what several GPUs of one host (2) give over one of them, in one call: tokens/s of
# training with as much work a GPU (weak scaling), by what gradients travel as; the memory of one of them in its last
# step against the plan; and with ZERO=3 what was gathered of weights. PROGRAMS is the folder of the built programs, TOKENS
# a folder that `nibble data prepare` wrote. MODELS, RECIPES, EXCHANGES, ZERO, GATHERS (block, step), BATCH (sequences a
# GPU and step), PASSES (that they are cut into) and STEPS choose the runs; ALONE=no leaves those on one GPU out (7B does
# not fit); LIMIT is in seconds. A run is killed after its last step, since writing a checkpoint of such a model takes
# longer than its steps. DEVICE=cpu tries the script on CPU ranks, by mpirun. Run it in the repository's root.
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

# memory FOLDER: what a rank holds on its GPU, or here the first one's process, and what was predicted.
memory() {
  predicted=$(sed -n 's/.*"total": *\([0-9]*\).*/\1/p' "$1/run.json" 2> /dev/null)
  if [ "${DEVICE:-cuda}" = cuda ]; then
    # Of the process that holds most, since ranks may share a GPU.
    used=$(nvidia-smi --query-compute-apps=used_memory --format=csv,noheader,nounits 2> /dev/null | grep -E '^[0-9]+$' | sort -n | tail -n 1)
    [ -n "$used" ] || used=$(nvidia-smi --query-gpu=memory.used --format=csv,noheader,nounits 2> /dev/null | head -n 1)
  else
    used=$(pgrep -f -- "--out $1 " | tail -n 1 | xargs -I{} sed -n 's/^VmRSS:[^0-9]*\([0-9]*\) kB/\1/p' /proc/{}/status | awk '{ print $1 / 1024 }')
  fi
  [ -n "$predicted" ] && [ -n "$used" ] &&
    awk -v p="$predicted" -v u="$used" 'BEGIN { printf "%.1f GiB of memory, %.1f predicted", u / 1024, p / 2 ^ 30 }'
}

# one MODEL RECIPE EXCHANGE RANKS [GATHER]
one() {
  name=$(basename "$1")-$(basename "$2" .toml)-$3-$4${5:+-$5}
  folder=$out/$name
  rm -rf "$folder"
  [ $(($(date +%s) - began)) -lt "$limit" ] || { echo "later   $name"; return; }
  ranks=$4
  gather=${5:-block}
  set -- "$programs/nibble" train --config configs/league-30m.toml --recipe "$2" --out "$folder" \
    --set model.file="$1" --set model.seq="${SEQ:-2048}" --set data.dir="$tokens" --set train.device="${DEVICE:-cuda}" \
    --set train.batch=$((batch * ranks)) --set train.micro_batch=$((batch / passes)) --set train.steps=100000 \
    --set train.exchange="$3" --set train.recompute="${RECOMPUTE:-none}" --set optimizer.kind="${OPTIMIZER:-adamw}" \
    --set train.gradients="${GRADIENTS:-f32}" --set train.zero="${ZERO:-0}" --set train.gather="$gather" --set log.validate_every=0 --set log.quality_every=0 --set log.checkpoint_every=0
  # In a session of its own, so that all its processes can be killed at once.
  if [ "$ranks" = 1 ]; then
    CUDA_VISIBLE_DEVICES=0 setsid "$@" > "$folder.log" 2>&1 &
  elif [ "${DEVICE:-cuda}" = cpu ]; then
    OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" setsid mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$ranks" "$@" > "$folder.log" 2>&1 &
  else
    setsid tests/dist/gpus.sh "$ranks" "$@" > "$folder.log" 2>&1 &
  fi
  job=$!
  while kill -0 "$job" 2> /dev/null; do
    sleep 0.5
    [ "$(wc -l 2> /dev/null < "$folder/metrics.jsonl" || echo 0)" -ge "$steps" ] && break
    [ $(($(date +%s) - began)) -lt "$limit" ] || break
  done
  memory=$(memory "$folder")
  kill -KILL "-$job" 2> /dev/null
  wait "$job" 2> /dev/null
  rate=$(rate "$folder")
  if [ -n "$rate" ]; then
    echo "run     $name: $rate tokens/s, loss $(tail -n 1 "$folder/metrics.jsonl" | sed -n 's/.*"loss":\([0-9.]*\).*/\1/p')"
    [ -n "$memory" ] && echo "        $memory"
    tail -n 1 "$folder/metrics.jsonl" | sed -n 's/.*"gathered_bytes":\([0-9]*\),"gathered_of_bf16":\([0-9.]*\).*/\1 \2/p' |
      awk '{ printf "        %.2f GB of weights gathered a step, %.2f of what BF16 would be\n", $1 / 1e9, $2 }'
  else
    echo "failed  $name: $(tail -n 1 "$folder.log")"
  fi
}

for model in ${MODELS:-llama-1.3b}; do
  for recipe in ${RECIPES:-bf16 recipes/ablations/wang2025-fused.toml}; do
    alone=
    if [ "${ALONE:-yes}" = yes ]; then
      one "$model" "$recipe" stored 1
      alone=$rate
    fi
    for exchange in ${EXCHANGES:-stored bf16 fp8}; do
      for gather in ${GATHERS:-block}; do
        rate=
        one "$model" "$recipe" "$exchange" "$gpus" "$gather"
        [ -n "$alone" ] && [ -n "$rate" ] &&
          echo "        $(awk -v a="$alone" -v b="$rate" -v n="$gpus" 'BEGIN { printf "%.1f %% of %d times one GPU", 100 * b / a / n, n }')"
      done
    done
  done
done
