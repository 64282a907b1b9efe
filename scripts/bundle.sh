#!/bin/sh
# scripts/bundle.sh BUILD OUT.tar.xz PROGRAM...: packs programs of a build folder with the shared libraries that they need into
# one archive, to run on a machine that has a GPU, a driver and CUDA's libraries, but none of nibble's dependencies:
#
#   scripts/bundle.sh build bundle.tar.xz nibble tests/ops_tests
#   (there)  tar xJf bundle.tar.xz && LD_LIBRARY_PATH=$PWD/bundle/lib bundle/bin/nibble doctor
#
# The C library and the compiler's own libraries are the other machine's, which must be as new as this one.
set -eu
build=$1
out=$2
shift 2
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/bundle/bin" "$work/bundle/lib"
for program in "$@"; do
  install -s "$build/$program" "$work/bundle/bin/"
  ldd "$build/$program" | sed -n 's/.* => \(\/[^ ]*\) .*/\1/p'
done | sort -u | grep -vE '/(libc|libm|libdl|libpthread|librt|libstdc\+\+|libgcc_s)\.so' | while read -r library; do
  cp -L "$library" "$work/bundle/lib/"
done
tar -C "$work" -cf - bundle | xz -3 --lzma2=preset=3,dict=192MiB > "$out"
ls -l "$out"
