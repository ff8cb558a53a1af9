#!/usr/bin/env bash
# Trains on a TPU slice: starts the same command on all of its hosts through gcloud, and shows what they say.
#
#   bash launch/tpu_pod.sh --tpu NAME --zone ZONE --config FILE --out DIR [options of python -m jam_jax.train]
#
#   --tpu NAME     the slice (gcloud compute tpus tpu-vm list)
#   --zone ZONE    where it is
#   --help         this text
#
# Every host needs this repository at the same place as here, with requirements.txt and jax[tpu] installed, and the run's
# directory on a file system that all share. Prints the command that it runs. The run goes on where it was if it is
# started again. PYTHON=... is the hosts' interpreter.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/flags.sh"

tpu='' zone='' rest=()
while [ $# -gt 0 ]; do
    case $1 in
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
    --tpu) tpu=${2:-} && shift ;;
    --zone) zone=${2:-} && shift ;;
    *) rest+=("$1") ;;
    esac
    shift
done
case " ${rest[*]} " in
*" --config "* | *" --config="*) ;;
*) fail "tpu_pod.sh needs --config FILE, got ${rest[*]} (bash launch/tpu_pod.sh --help)" ;;
esac
[ -n "$tpu" ] && [ -n "$zone" ] || fail "tpu_pod.sh needs --tpu NAME and --zone ZONE"

command=$(printf ' %q' "${PYTHON:-python3}" -P -m jam_jax.train --resume auto "${rest[@]}")
there=$(printf 'cd %q && JAM_JAX_DISTRIBUTED=1 LIBTPU_INIT_ARGS=%q PYTHONPATH=%q exec' "$root" "$tpu_flags" "$root")
run gcloud compute tpus tpu-vm ssh "$tpu" --zone "$zone" --worker=all --command "$there$command"
