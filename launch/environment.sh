# Sourced by the other scripts here: makes .venv in the repository and installs requirement files into it, once.
#
#   ready requirements.txt ...   afterwards "$python" is the environment's interpreter
#
# Nothing is installed again while a file's hash matches its stamp in .venv. PYTHON=... chooses the interpreter.

# Large pages, where glibc can ask the system for them: what XLA computes in on a CPU is large, and touched all over.
export GLIBC_TUNABLES="${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}"

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python="$root/.venv/bin/python"

fail() {
    echo "error: $*" >&2
    exit 1
}

recent() { # is this an interpreter of Python 3.11 or newer?
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

make_venv() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if recent "$candidate"; then
            "$candidate" -m venv "$root/.venv" >/dev/null 2>&1 && return
            rm -rf "$root/.venv"
            fail "$candidate cannot make a virtual environment; install its venv module (Debian: python3-venv)"
        fi
    done
    fail "Python 3.11 or newer is needed; found $("${PYTHON:-python3}" --version 2>&1 | tail -1) (PYTHON=/path/to/python chooses one)"
}

digest() { # of a requirement file, for this interpreter
    "$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read() + sys.version.encode()).hexdigest())' "$1"
}

ready() {
    # An environment whose making was interrupted has no working pip: it is made again.
    "$python" -m pip --version >/dev/null 2>&1 || { rm -rf "$root/.venv"; make_venv; }
    local file stamp log="$root/.venv/install.log"
    for file in "$@"; do
        stamp="$root/.venv/installed-$file"
        [ "$(cat "$stamp" 2>/dev/null)" = "$(digest "$root/$file")" ] && continue
        echo "Installing $file into .venv (a few minutes, once) ..."
        "$python" -m pip install -qq --no-input --disable-pip-version-check -r "$root/$file" >"$log" 2>&1 ||
            fail "installing $file failed: $(grep -i error "$log" | tail -1) (all of it: $log)"
        digest "$root/$file" >"$stamp"
    done
}
