#!/usr/bin/env bash
# Proves the project: lint, format, types and all tests, in .venv. Takes at most ten minutes on two cores.
#
#   bash launch/test.sh [--help]
#
# Needs Python 3.11 or newer and a package index; no GPU. Makes .venv in the repository on its first run.
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"

for option in "$@"; do
    case $option in
    --help | -h) sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p;}' "${BASH_SOURCE[0]}" && exit ;;
    *) fail "test.sh takes no options, got $option (one test: .venv/bin/python -m pytest tests/test_tokens.py)" ;;
    esac
done

ready requirements.txt requirements-dev.txt
cd "$root"
"$python" -m ruff check .
"$python" -m ruff format --check .
types=$(mktemp)
"$python" -m mypy jam_jax >"$types" 2>&1 & # takes one core: beside the tests
mypy=$!
trap 'kill "$mypy" 2>/dev/null || true; rm -f "$types"' EXIT
status=0
"$python" -m pytest -q -n 2 || status=$?
wait "$mypy" || status=$?
cat "$types"
exit "$status"
