#!/bin/sh
# bench/profile.sh PROGRAMS TOKENS OUT RECIPE...: the kernels of a training step, by Nsight Compute: microseconds and launches by
# kernel of the last of three steps, of LAYERS (4) layers of MODEL (llama-1.3b) and its head. PROGRAMS is the folder of
# nibble, TOKENS one that `nibble data prepare` wrote; MORE are arguments of train. A kernel alone on a cool card runs up
# to a fifth faster than in a whole step: read shares, not sums. Run it in the repository's root.
set -u
[ $# -ge 4 ] || { echo "usage: $0 PROGRAMS TOKENS OUT RECIPE..." >&2; exit 2; }
programs=$(cd "$1" && pwd) || exit 2
tokens=$2
out=$3
shift 3
mkdir -p "$out"
# shellcheck source=/dev/null
. "$(dirname "$0")/libraries.sh"
model=${MODEL:-llama-1.3b}
sed "s/^layers *=.*/layers = ${LAYERS:-4}/" "models/$model.toml" > "$out/model.toml"
for recipe in "$@"; do
  name=$(basename "$recipe" .toml)
  rm -rf "$out/run"
  # shellcheck disable=SC2086  # MORE is several words
  ncu --clock-control none --csv --print-units base --metrics gpu__time_duration.sum --log-file "$out/$name.csv" \
    "$programs/nibble" train --config configs/league-30m.toml --recipe "$recipe" --out "$out/run" --set model.file="$out/model.toml" \
    --set model.seq="${SEQ:-2048}" --set data.dir="$tokens" --set train.batch="${BATCH:-8}" --set train.steps=3 --set log.quality_every=0 \
    --set log.validate_every=0 --set log.checkpoint_every=0 ${MORE:-} > "$out/$name.log" 2>&1
  python3 - "$out/$name.csv" "$name" << 'PY'
import csv, collections, re, sys
path, recipe = sys.argv[1:]
rows = [r for r in csv.reader(l for l in open(path) if l.startswith('"'))]
if not rows: sys.exit(f"{recipe}: nothing was profiled")
head = rows[0]
name, value = head.index("Kernel Name"), head.index("Metric Value")
launches = [(r[name], float(r[value].replace(",", "")) / 1e3) for r in rows[1:]]
# A step ends with its last optimizer kernel.
ends = [i for i, (k, _) in enumerate(launches) if "adamw" in k or "requantise_kernel<4>(nibble::cuda::State" in k]
steps, last = [], None
for i in ends:
    if last is None or i - last > 40: steps.append(i)
    else: steps[-1] = i
    last = i
first = steps[-2] + 1 if len(steps) > 1 else 0
step = launches[first:steps[-1] + 1] if steps else launches
total = sum(t for _, t in step)
print(f"profile {recipe}: {total / 1e3:.2f} ms in {len(step)} kernels")
by = collections.defaultdict(list)
for k, t in step: by[re.sub(r"\s+", " ", k)].append(t)
for k, ts in sorted(by.items(), key=lambda kv: -sum(kv[1]))[:40]:
    print(f"  {sum(ts):9.1f} us {100 * sum(ts) / total:5.1f} % {len(ts):5d} x  {k[:150]}")
PY
done
