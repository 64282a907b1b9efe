#!/bin/sh
# bench/league.sh PROGRAMS TOKENS OUT [RUN...]: recipes on real text by one protocol (configs/league-30m.toml), as many runs as
# fit into LIMIT seconds, and one table of them and of what earlier calls finished. PROGRAMS is the folder of the built programs,
# TOKENS the archive of scripts/league_data.sh or a folder that `nibble data prepare` wrote. A RUN is a recipe, with seeds other
# than 1 after a colon, in the order in which they shall be started:
#
#   bench/league.sh bundle/bin league-tokens.tar.xz OUT bf16:1,2 wang2025:1,2 zhou2025
#   EARLIER=results.tar.xz LIMIT=500 bench/league.sh bundle/bin league-tokens.tar.xz OUT     # go on: what is done is passed over
#
# Without a RUN: every recipe of recipes/ with seed 1, and a second seed for bf16, wang2025, quartet, nvfp4, quartet2, union.
# A run that an earlier one of its recipe shows to be too long is not started; one that turns out to be is given up. OUT gets
#   league.tar.xz     logs of this call's runs, without checkpoints
#   results.tar.xz    what the next call needs as EARLIER: the results of all calls
#   league.md .json .svg .html, losses.tsv
# With GPUS=n that many GPUs (0 to n - 1) take one run after the other.
# Run it in the repository's root. A run whose loss stopped being finite is not tried again. CONFIG and SETTINGS
# ('--set train.steps=100 ...') change the protocol, WORK where checkpoints are written.
set -u
[ $# -ge 3 ] || { echo "usage: $0 PROGRAMS TOKENS OUT [RUN...]" >&2; exit 2; }
began=$(date +%s)
programs=$(cd "$1" && pwd) || exit 2
tokens=$2
mkdir -p "$3"
out=$(cd "$3" && pwd)
shift 3
limit=${LIMIT:-540}
config=${CONFIG:-configs/league-30m.toml}
settings=${SETTINGS:-}
here=$(dirname "$0")
# shellcheck source=/dev/null
. "$here/libraries.sh"
nibble=$programs/nibble

if [ $# = 0 ]; then
  twice='bf16 wang2025 quartet nvfp4 quartet2 union'
  # shellcheck disable=SC2086  # a list of names
  set -- $twice
  for file in recipes/*.toml; do
    recipe=$(basename "$file" .toml)
    case " $twice " in *" $recipe "*) ;; *) set -- "$@" "$recipe" ;; esac
  done
  for recipe in $twice; do set -- "$@" "$recipe:2"; done
fi

# Checkpoints go to memory where there is some: a run writes one at its end, which is then thrown away.
if [ -z "${WORK:-}" ] && [ "$(df -Pk /dev/shm 2> /dev/null | awk 'NR == 2 { print int($4 / 1048576) }')" -ge 8 ] 2> /dev/null; then
  WORK=/dev/shm
fi
runs=$(mktemp -d "${WORK:-${TMPDIR:-/tmp}}/league.XXXXXX") || exit 1
claims=$(mktemp -d "${TMPDIR:-/tmp}/claims.XXXXXX") || exit 1
trap 'rm -rf "$runs" "$claims"' EXIT
if [ -n "${EARLIER:-}" ]; then tar -C "$runs" -xJf "$EARLIER" || exit 2; fi

case $tokens in
  *.tar.xz)
    if [ ! -e data/league/meta.json ]; then
      rm -rf data/league.part && mkdir -p data/league.part
      tar -C data/league.part -xJf "$tokens" && mv data/league.part/tokens data/league || exit 2
      rm -rf data/league.part
    fi
    ;;
  *)
    # Where the tokens lie is not part of the protocol: runs of all calls name one folder.
    if [ ! -e data/league/meta.json ]; then
      tokens=$(cd "$tokens" && pwd) && mkdir -p data && ln -sfn "$tokens" data/league || exit 2
    fi
    ;;
esac

device=$(nvidia-smi --query-gpu=name --format=csv,noheader 2> /dev/null | head -n 1)
[ -n "$device" ] || device='no GPU'
commit=${COMMIT:-$(git rev-parse --short HEAD 2> /dev/null || echo unknown)}
# shellcheck disable=SC2086  # words
steps=$("$nibble" train --config "$config" $settings --print-config | sed -n 's/^steps = //p')
[ -n "$steps" ] || exit 2
echo "league  $(date -u +%Y-%m-%d), commit $commit, $device, $steps steps; ready after $(($(date +%s) - began)) s"

# The last fifteen seconds are for packing and the table.
deadline=$((began + limit - 15))

# Both archives appear whole or not at all, so that a call that is cut off keeps what was packed before. One packs at a time.
pack() {
  (
    cd "$runs" || exit
    until mkdir "$claims/packing" 2> /dev/null; do sleep 0.2; done
    find . -mindepth 2 -maxdepth 2 \( -name run.json -o -name result.json -o -name row.tsv -o -name diverged \) |
      sort | tar -cJf "$out/.results" -T - && mv "$out/.results" "$out/results.tar.xz"
    for run in *; do
      if [ -e "$run/metrics.jsonl" ] && { [ -e "$run/result.json" ] || [ -e "$run/diverged" ]; }; then echo "$run"; fi
    done | tar --exclude='events.*' -cf - -T - | xz -2 > "$out/.league" && mv "$out/.league" "$out/league.tar.xz"
    rmdir "$claims/packing"
  )
}

# known RECIPE: seconds that the longest complete run of the recipe took; of any recipe, without a name, the shortest.
known() {
  if [ $# = 1 ]; then cat "$runs/$1"-s[0-9]*/row.tsv 2> /dev/null | cut -f 6 | sort -n | tail -n 1
  else cat "$runs"/*/row.tsv 2> /dev/null | cut -f 6 | sort -n | head -n 1; fi
}

# watch FOLDER PID: waits for the run; gives it up when its pace shows that it would end after the deadline.
watch() {
  first=
  while kill -0 "$2" 2> /dev/null; do
    sleep 1
    now=$(date +%s)
    done_steps=$(wc -l 2> /dev/null < "$1/metrics.jsonl" || echo 0)
    if [ -z "$first" ]; then
      [ "$done_steps" -ge 20 ] && first=$done_steps && first_at=$now
    elif [ $((now - first_at)) -ge 8 ] && [ "$done_steps" -gt "$first" ]; then
      ends=$((now + (now - first_at) * (steps - done_steps) / (done_steps - first) + 2))
      [ "$done_steps" -lt "$steps" ] && [ "$ends" -gt "$deadline" ] && { kill -KILL "$2"; return 1; }
    fi
    [ "$now" -gt "$deadline" ] && { kill -KILL "$2"; return 1; }
  done
  return 0
}

# one RECIPE SEED
one() {
  recipe=$(basename "$1" .toml)
  folder=$runs/$recipe-s$2
  [ -e "$folder/result.json" ] && return
  if [ -e "$folder/diverged" ]; then
    echo "earlier $recipe, seed $2: $(cat "$folder/diverged")"
    return
  fi
  case $given_up in *" $recipe "*) return ;; esac
  mkdir "$claims/$recipe-s$2" 2> /dev/null || return  # another GPU has it
  left=$((deadline - $(date +%s)))
  needed=$(known "$recipe")
  # Of a recipe that never ran, only that no recipe takes less than half of the fastest one so far.
  [ -n "$needed" ] || needed=$(known | awk '{ print int($1 / 2) }')
  if [ "$left" -lt "${needed:-20}" ]; then
    echo "later   $recipe, seed $2: $left s are left, ${needed:-20} s needed"
    return
  fi
  mkdir -p "$folder"
  start=$(date +%s)
  # shellcheck disable=SC2086  # words
  env ${gpu:+CUDA_VISIBLE_DEVICES="$gpu"} "$nibble" train --config "$config" $settings --set train.seed="$2" --recipe "$1" --out "$folder" > "$folder/train.log" 2>&1 &
  if ! watch "$folder" $!; then
    wait $! 2> /dev/null
    echo "later   $recipe, seed $2: given up after $(($(date +%s) - start)) s and $(wc -l 2> /dev/null < "$folder/metrics.jsonl") steps"
    rm -rf "$folder"
    given_up="$given_up$recipe "
    return
  fi
  wait $!
  code=$?
  seconds=$(($(date +%s) - start))
  rm -rf "$folder/checkpoints"
  if [ ! -e "$folder/result.json" ]; then
    why=$(tail -n 1 "$folder/train.log")
    echo "failed  $recipe, seed $2: exit $code, $seconds s: $why"
    case $why in
      *'is not finite'*) echo "$why" > "$folder/diverged" ;;
      *) rm -rf "$folder" ;;
    esac
  else
    figure() { sed -n "s/^ *\"$1\": \([^,]*\),*\$/\1/p" "$folder/result.json"; }
    last=$(tail -n 50 "$folder/metrics.jsonl" | sed -n 's/.*"loss":\([^,]*\),"lr":.*/\1/p' | awk '{ s += $1 } END { printf "%.5f", s / NR }')
    validation=$(figure val_loss | awk '{ if ($1 == "null") print; else printf "%.5f", $1 }')
    rate=$(figure tokens_per_second | awk '{ printf "%.0f", $1 }')
    printf '%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n' "$recipe" "$2" "$last" "$validation" "$rate" "$seconds" "$commit" "$device" \
      > "$folder/row.tsv"
    echo "run     $recipe, seed $2: last 50 steps $last, validation $validation, $rate tokens/s, $seconds s"
  fi
  wait "$packing" 2> /dev/null
  pack &
  packing=$!
}

# all GPU RUN...: one after the other, of those that no other GPU took. An empty GPU is whichever the program finds.
all() {
  gpu=$1
  shift
  packing=
  given_up=' '
  for run in "$@"; do
    recipe=${run%%:*}
    seeds=1
    [ "$recipe" = "$run" ] || seeds=${run#*:}
    for seed in $(echo "$seeds" | tr , ' '); do one "$recipe" "$seed"; done
  done
  wait
}

if [ "${GPUS:-1}" = 1 ]; then
  all '' "$@"
else
  n=0
  while [ "$n" -lt "$GPUS" ]; do
    (trap - EXIT; all "$n" "$@") &
    n=$((n + 1))
  done
  wait
fi

rows=$(find "$runs" -name row.tsv | sort)
if [ -n "$rows" ]; then
  {
    printf 'recipe\tseed\tloss of the last 50 steps\tvalidation loss\ttokens/s\tseconds\tcommit\tdevice\n'
    echo "$rows" | xargs cat
  } > "$out/losses.tsv"
  "$nibble" league --compare "$runs" --out "$out"
fi
echo "league  $(echo "$rows" | grep -c .) runs complete; $(($(date +%s) - began)) s"
