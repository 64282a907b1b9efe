# shellcheck shell=sh
# Read by bench/*.sh, with PROGRAMS in $programs: lets the programs find cuBLASLt and cuDNN where a Python environment brings
# them, and the libraries of a bundle (scripts/bundle.sh).
# shellcheck disable=SC2154
if site=$(python3 -c 'import site; print(site.getsitepackages()[0])' 2> /dev/null); then
  for folder in "$site"/nvidia/*/lib; do LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}:$folder; done
fi
[ -d "$programs/../lib" ] && LD_LIBRARY_PATH=$programs/../lib:${LD_LIBRARY_PATH:-}
export LD_LIBRARY_PATH
