#!/bin/sh
# gpu_runs.sh PROGRAMS TOKENS OUT [RANKS]: short training runs on RANKS (2) GPU ranks against the same runs on one: recipes by
# ZeRO level, by what gradients travel as, and by how weights are gathered. In the deterministic mode the losses, the
# gradients' norms and the weights at the end must be the same, to the bit; without it losses may differ by BOUND (0.02).
# PROGRAMS is the folder of nibble, TOKENS one that `nibble data prepare` wrote. RECIPES, STEPS (6), JOBS (how many at a
# time) and LIMIT (seconds) choose. DEVICE=cpu tries the script on CPUs, by mpirun. Run it in the repository's root.
#
# Several ranks can share one GPU where NCCL is 2.29 or newer and NCCL_MULTI_RANK_GPU_ENABLE=1 is set: slow, since their
# kernels take turns, and the same operations as on a GPU each.
set -u
[ $# -ge 3 ] || { echo "usage: $0 PROGRAMS TOKENS OUT [RANKS]" >&2; exit 2; }
programs=$(cd "$1" && pwd) || exit 2
tokens=$(cd "$2" && pwd) || exit 2
mkdir -p "$3"
out=$(cd "$3" && pwd)
ranks=${4:-2}
# shellcheck source=/dev/null
. "$(dirname "$0")/../../bench/libraries.sh"
export programs tokens out ranks DEVICE="${DEVICE:-cuda}" STEPS="${STEPS:-6}" BOUND="${BOUND:-0.02}"
ENDS=$(($(date +%s) + ${LIMIT:-540}))
export ENDS

# Lines of RECIPE, deterministic or not, exchange, ZeRO level, gathering, optimizer.
cases() {
  for recipe in ${RECIPES:-bf16 fp4-direct wang2025 nvfp4 quartet quartet2 zhou2025 union luq tetrajet2 fp8 fp8-tensor}; do
    echo "$recipe yes stored 3 block adamw"
  done
  for recipe in ${STEPWISE:-nvfp4 wang2025}; do echo "$recipe yes stored 3 step adamw"; done
  for level in 0 1 2; do echo "wang2025 yes stored $level block adamw"; done
  for level in 0 1 2 3; do echo "quartet2 yes stored $level block adamw-fp8"; done
  for level in 0 1 2 3; do
    for exchange in stored bf16 fp8; do echo "nvfp4 no $exchange $level block adamw"; done
  done
}

# one NUMBER RANKS RECIPE DETERMINISTIC EXCHANGE ZERO GATHER OPTIMIZER
cat > "$out/one.sh" << 'END'
number=$1 ranks=$2 recipe=$3 deterministic=$4 exchange=$5 zero=$6 gather=$7 optimizer=$8
name=$recipe-$deterministic-$exchange-$zero-$gather-$optimizer-$ranks
folder=$out/$name
rm -rf "$folder"
[ "$deterministic" = yes ] && flag=--deterministic || flag=
set -- "$programs/nibble" train --config configs/demo.toml --recipe "$recipe" --out "$folder" $flag \
  --set train.device="$DEVICE" --set data.dir="$tokens" --set train.steps="$STEPS" --set train.batch=8 --set train.micro_batch=2 \
  --set train.exchange="$exchange" --set train.zero="$zero" --set train.gather="$gather" --set optimizer.kind="$optimizer" \
  --set log.validate_every="$STEPS" --set log.validate_sequences=8 --set log.quality_every=3 --set log.checkpoint_every=0
if [ "$ranks" = 1 ]; then
  "$@" > "$folder.log" 2>&1
elif [ "$DEVICE" = cpu ]; then
  OMP_NUM_THREADS=1 mpirun --allow-run-as-root --oversubscribe --bind-to none -n "$ranks" "$@" > "$folder.log" 2>&1
else
  MASTER_PORT=$((29600 + number)) timeout 240 tests/dist/gpus.sh "$ranks" "$@" > "$folder.log" 2>&1
fi || exit
rm -rf "$folder/whole"
"$programs/nibble" export --checkpoint "$folder" --out "$folder/whole" >> "$folder.log" 2>&1
END

cat > "$out/compare.sh" << 'END'
number=$1
shift
[ "$(date +%s)" -lt "$ENDS" ] || { echo "later   $*"; exit 0; }
# On one rank there is nothing to exchange or to divide.
alone="$1 $2 stored 0 block $6"
lone=$out/$1-$2-stored-0-block-$6-1
[ "$2" = yes ] && kind="$1, deterministic" || kind="$1"
what="$kind, $3, ZeRO-$4 ($5), $6"
(
  flock 9
  [ -e "$lone/done" ] || { sh "$out/one.sh" "$number" 1 $alone; mkdir -p "$lone"; echo $? > "$lone/done"; }
) 9> "$lone.lock"
sh "$out/one.sh" "$number" "$ranks" "$@"
code=$?
many=$out/$1-$2-$3-$4-$5-$6-$ranks
if [ $code != 0 ] || [ "$(cat "$lone/done")" != 0 ]; then
  echo "FAILED  $what: exit code $code: $(tail -n 1 "$many.log" | cut -c -200)"
  exit 0
fi
python3 - "$lone" "$many" "$what" "$2" "$BOUND" << 'PY'
import hashlib, json, pathlib, sys
lone, many, what, deterministic, bound = sys.argv[1:]
def figures(folder):
    lines = [json.loads(line) for line in open(folder + "/metrics.jsonl")]
    return [(l["step"], l.get("loss"), l.get("grad_norm"), l.get("val_loss")) for l in lines]
def weights(folder):  # as one file, whatever the parts
    return hashlib.sha256(pathlib.Path(folder, "whole", "model.safetensors").read_bytes()).hexdigest()[:16]
a, b = figures(lone), figures(many)
worst = max(abs(x[1] - y[1]) for x, y in zip(a, b)) if a and len(a) == len(b) else float("inf")
same = a == b and weights(lone) == weights(many)
if deterministic == "yes":
    print("same   " if same else "DIFFERS", what, "" if same else f"losses by {worst:.3g} at most, weights: {'not ' * (weights(lone) != weights(many))}the same")
else:
    print("within " if worst <= float(bound) else "DIFFERS", what, f"losses by {worst:.3g} at most")
PY
END

number=0
cases | while read -r line; do
  number=$((number + 1))
  echo "$number $line"
done | xargs -P "${JOBS:-1}" -L 1 sh "$out/compare.sh"
