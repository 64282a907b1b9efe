#!/bin/sh
# tests/dist/two_hosts.sh NIBBLE MPIRUN CONFIG FOLDER: one rank each on two hosts, which are network namespaces joined by a
# cable, train over TCP what one process trains: the same bits. Needs root and iproute2; 77 = cannot be run here.
set -eu
nibble=$1
mpirun=$2
config=$3
folder=$4
if [ "$(id -u)" != 0 ] || ! command -v ip > /dev/null; then
  echo "needs root and iproute2"
  exit 77
fi
one=nibble-$$-1
two=nibble-$$-2
ip netns add "$one" 2> /dev/null || { echo "network namespaces cannot be made here"; exit 77; }
trap 'ip netns del "$one"; ip netns del "$two" 2> /dev/null || true' EXIT
ip netns add "$two"
ip link add "nib$$a" netns "$one" type veth peer name "nib$$b" netns "$two"
ip -n "$one" address add 10.77.0.1/24 dev "nib$$a"
ip -n "$two" address add 10.77.0.2/24 dev "nib$$b"
ip -n "$one" link set lo up
ip -n "$two" link set lo up
ip -n "$one" link set "nib$$a" up
ip -n "$two" link set "nib$$b" up

# Stands in for ssh: options, host, command.
cat > "$folder/agent" << AGENT
#!/bin/sh
while [ "\${1#-}" != "\$1" ]; do shift; done
case \$1 in
  10.77.0.1) host=$one ;;
  10.77.0.2) host=$two ;;
  *) exit 1 ;;
esac
shift
exec ip netns exec "\$host" sh -c "\$*"
AGENT
chmod +x "$folder/agent"

"$nibble" train --config "$config" --deterministic --out "$folder/one"
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 NIBBLE_DIST_TIMEOUT=60
ip netns exec "$one" "$mpirun" --bind-to none --mca plm_rsh_agent "$folder/agent" --mca plm_rsh_no_tree_spawn 1 \
  --mca btl tcp,self --mca btl_tcp_if_include 10.77.0.0/24 --mca oob_tcp_if_include 10.77.0.0/24 \
  -H 10.77.0.1:1,10.77.0.2:1 -x OMP_NUM_THREADS -x NIBBLE_DIST_TIMEOUT sh -c \
  "ip netns identify \$\$; exec \"$nibble\" train --config \"$config\" --deterministic --out \"$folder/two\"" | tee "$folder/log"
for host in "$one" "$two"; do
  if ! grep -q "$host" "$folder/log"; then
    echo "no rank was on $host"
    exit 1
  fi
done
# Two ranks write other files than one does: so one process makes the last steps, from the checkpoint before the last.
last_checkpoint() { printf '%s\n' "$folder/$1"/checkpoints/step-*/ | tail -n 1; }
rm -r "$(last_checkpoint two)"
"$nibble" train --config "$config" --deterministic --resume --out "$folder/two"
for file in model.safetensors optimizer.safetensors; do cmp "$(last_checkpoint one)$file" "$(last_checkpoint two)$file"; done
