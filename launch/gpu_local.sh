#!/usr/bin/env bash
# Trains on the GPUs of this machine, or on its cores where it has none. Goes on where it was if it is started again.
#
#   bash launch/gpu_local.sh --config FILE --out DIR [options of python -m jam_jax.train]
#
#   --help    this text
#
# Prints the command that it runs. PYTHON=/path/to/python chooses an interpreter that has jax for the hardware, for
# NVIDIA's `pip install "jax[cuda12]"` beside requirements.txt. CUDA_VISIBLE_DEVICES=0,1 chooses GPUs.
set -euo pipefail
root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
source "$root/launch/flags.sh"

case " $* " in
*" --help "* | *" -h "*) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
*" --config "* | *" --config="*) ;;
*) fail "gpu_local.sh needs --config FILE, got $* (bash launch/gpu_local.sh --help)" ;;
esac

export XLA_FLAGS="$gpu_flags ${XLA_FLAGS:-}"
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
run "${PYTHON:-python3}" -P -m jam_jax.train --resume auto "$@"
