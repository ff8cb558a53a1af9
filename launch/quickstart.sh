#!/usr/bin/env bash
# From nothing to an illustrated answer: a small world, two parents, their fusion, and a page that shows what it kept.
#
#   bash launch/quickstart.sh [options]
#
#   --fresh                       begin again; without it finished stages are kept
#   --fusion uniform|width|cross  how the parents are fused (cross)
#   --pictures DIR                your own pictures: a folder with metadata.jsonl (file_name, text); needs --text
#   --text DIR                    your own text: a folder of .txt files; needs --pictures
#   --minutes N                   how long it may take on two cores (15); all training is scaled alike
#   --out DIR                     where everything goes (runs/quickstart in the repository; runs/own for your own data)
#   --help                        this text
#
# Needs Python 3.11 or newer and a package index; no GPU. Makes .venv in the repository on its first run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

for option in "$@"; do
    case $option in
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
    --fresh | --fusion | --pictures | --text | --minutes | --out) ;;
    --fusion=* | --pictures=* | --text=* | --minutes=* | --out=*) ;;
    -*) fail "quickstart.sh does not know the option $option; bash launch/quickstart.sh --help lists those it knows" ;;
    esac
done

ready requirements.txt
PYTHONPATH="$root" exec "$python" -P -m jam_jax.quickstart "$@"
