#!/usr/bin/env bash
# Makes a virtual environment and installs this repository into it: scripts/install.sh VENV EXTRA[,EXTRA...]
#
# Everything is pinned by constraints.txt. uv does the work, the machine's own or one that pip puts into the
# environment; where uv cannot (no index within its reach, say), pip does it, slower, with its own settings.
set -euo pipefail
cd "$(dirname "$0")/.."
venv=$1
extras=$2

fail() {
    echo "install: $*" >&2
    exit 1
}

is_supported() {
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3.12 python3.13 python3 python}; do
        if is_supported "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 found; install one, or say where it is: PYTHON=/path/to/python3.11"
}

make_venv() {
    local python log
    python=$(find_python)
    echo "install: making $venv with $("$python" --version)"
    if log=$("$python" -m venv --clear "$venv" 2>&1); then
        return
    fi
    # Debian keeps ensurepip in a package of its own; uv does without it.
    find_uv && "${uv[@]}" venv --quiet --clear --python "$python" "$venv" && return
    echo "$log" >&2
    fail "$python cannot make a virtual environment; on Debian and Ubuntu: sudo apt install python3-venv"
}

find_uv() {
    if uv --version >/dev/null 2>&1; then
        uv=(uv)
    elif [ -x "$venv/bin/uv" ]; then
        uv=("$venv/bin/uv")
    else
        return 1
    fi
}

install() {
    if [ "${#uv[@]}" -gt 0 ]; then
        "${uv[@]}" pip install --quiet --python "$venv/bin/python" "$@" && return
        echo "install: uv could not do it; trying pip, which takes some minutes"
    fi
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
    "$venv/bin/python" -m pip install --quiet "$@"
}

uv=()
is_supported "$venv/bin/python" || make_venv
find_uv || "$venv/bin/python" -m pip install --quiet -c constraints.txt uv || echo "install: no uv; pip it is"
find_uv || true

echo "install: installing the extras $extras; up to 8 GB with torch's CUDA libraries"
install -c constraints.txt -e ".[$extras]"
install --no-deps -c constraints.txt -r embedded-weights.txt
