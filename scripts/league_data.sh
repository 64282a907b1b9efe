#!/bin/sh
# scripts/league_data.sh NIBBLE TOKENIZER OUT.tar.xz VALID TRAIN...: tokenises text and packs the token shards small enough to be
# sent to the machine that trains (bench/league.sh unpacks them):
#
#   scripts/league_data.sh build/nibble bpe32k.model build-gpu/league-tokens.tar.xz valid.txt.zst train-0?.txt.zst
#
# TOKENS='46881431 492310' refuses a result that has not exactly these numbers of training and validation tokens.
# Tokens compress better than the text they came from (46.9 million of 32,000 kinds: 45 MB, the text 50): xz is told that they
# are two bytes each.
set -eu
[ $# -ge 5 ] || { echo "usage: $0 NIBBLE TOKENIZER OUT.tar.xz VALID TRAIN..." >&2; exit 2; }
nibble=$1
tokenizer=$2
out=$3
valid=$4
shift 4
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$nibble" data prepare --tokenizer "$tokenizer" --valid "$valid" --input "$@" --out "$work/tokens"
counts=$(sed -n 's/^ *"tokens": \([0-9]*\).*/\1/p' "$work/tokens/meta.json" | paste -sd ' ')
if [ -n "${TOKENS:-}" ] && [ "$counts" != "$TOKENS" ]; then
  echo "league_data: $counts training and validation tokens, expected $TOKENS: is this the text, and the tokenizer?" >&2
  exit 2
fi
mkdir -p "$(dirname "$out")"
tar --sort=name --owner=0 --group=0 --mtime=@0 -C "$work" -cf - tokens |
  xz --lzma2=preset=9e,dict=128MiB,lc=3,lp=1,pb=1 > "$out.part"
mv "$out.part" "$out"
ls -l "$out"
