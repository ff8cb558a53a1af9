#!/usr/bin/env bash
# The paper's tables in miniature: every model of them trained on the built-in world, and our figures beside the paper's.
#
#   bash launch/tables.sh [options]
#
#   --seeds 21,22,23   from how many seeds, and which, by commas; each trains its own parents and all that follows
#   --fresh            begin again; without it finished stages are kept
#   --share N          of the steps of every training (1); a small one shows that all runs, and nothing of the tables
#   --markdown FILE    also put the tables into a Markdown file, between its markers (docs/reproduction.md has them)
#   --out DIR          where everything goes (runs/tables in the repository)
#   --help             this text
#
# Needs Python 3.11 or newer and a package index; no GPU. Makes .venv in the repository on its first run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

for option in "$@"; do
    case $option in
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
    --seeds | --fresh | --share | --markdown | --out) ;;
    --seeds=* | --share=* | --markdown=* | --out=*) ;;
    -*) fail "tables.sh does not know the option $option; bash launch/tables.sh --help lists those it knows" ;;
    esac
done

ready requirements.txt
PYTHONPATH="$root" exec "$python" -P -m jam_jax.miniature "$@"
