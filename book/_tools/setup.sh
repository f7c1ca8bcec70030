#!/bin/sh
# Makes the virtual environment that every make target runs in. Called by make; a failure says what to do.
# Reads PYTHON, TORCH_INDEX and VENV; pip reads its own variables (PIP_INDEX_URL, PIP_CACHE_DIR, HTTPS_PROXY, ...).
set -u
VENV=${VENV:-.venv}
LOG=$VENV/setup.log
BIN=$VENV/bin

stop() { printf '%s\n' "$*" >&2; exit 1; }

free_kb() { df -Pk . | awk 'NR == 2 { print $4 }'; }

find_python() {
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    stop "${PYTHON:-python3} is missing or older than Python 3.11: install 3.11, 3.12 or 3.13 (python.org/downloads)," \
        "or name an interpreter, as in: make book PYTHON=/usr/local/bin/python3.12"
}

explain() {  # $1 = what was being installed; the log holds pip's own words
    if [ "$(free_kb)" -lt 200000 ] || grep -qiE 'no space left|errno 28|disk quota' "$LOG"; then
        stop "The disk is full: the set-up needs 2 GB here and 1 GB in pip's cache (6 GB and 4 GB more for PyTorch" \
            "with GPU support, see TORCH_INDEX in the README). Free some space and run the same command again."
    elif grep -qiE 'NewConnectionError|name resolution|NameResolution|ConnectTimeout|ReadTimeout|ProxyError|SSLError|ConnectionError|Retrying' "$LOG"; then
        stop "pip cannot reach the package index: check the network (or HTTPS_PROXY, PIP_INDEX_URL, PIP_CERT) and run" \
            "the same command again; it continues where it stopped. Details: $LOG"
    elif grep -qiE 'no matching distribution|requires a different python' "$LOG"; then
        stop "No build of $1 fits $("$BIN/python" -V 2>&1) on this machine: use 64-bit Python 3.11, 3.12 or 3.13, as in:" \
            "make clean; rm -r $VENV; make book PYTHON=python3.12. Details: $LOG"
    fi
    tail -n 5 "$LOG" >&2
    stop "pip could not install $1: the lines above say why, $LOG holds the rest; then run the same command again."
}

install() {  # $1 = name to print, the rest = arguments for pip; prints a count now and then, so that waiting has a face
    name=$1; shift
    echo "Installing $name ..."
    { "$BIN/python" -m pip install --disable-pip-version-check --progress-bar off "$@" 2>&1; echo "exit status $?"; } |
        tee "$LOG" | awk '/^Collecting/ { if (++n % 25 == 0) print "  " n " packages looked up"; fflush() }
            /^Installing collected/ { print "  unpacking"; fflush() }'
    tail -n 1 "$LOG" | grep -q '^exit status 0$' || explain "$name"
}

if ! "$BIN/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python) || exit 1
    echo "Making $VENV with $("$python" -V) ..."
    mkdir -p "$VENV" 2>/dev/null || stop "Cannot write to $(pwd): move the repository to a folder of your own."
    "$python" -m venv --clear "$VENV" >/dev/null 2>&1 ||
        if [ "$(free_kb)" -lt 200000 ]; then
            stop "The disk is full: the set-up needs 2 GB here and 1 GB in pip's cache. Free some space and run the same command again."
        else
            stop "$python cannot make a virtual environment: install its venv module (Debian: sudo apt install python3-venv)."
        fi
fi

# PyTorch first and alone: TORCH_INDEX applies to it only (the CPU build is a fifth of the size of the GPU build).
install "PyTorch" ${TORCH_INDEX:+--index-url "$TORCH_INDEX"} "$(grep '^torch==' requirements.txt)"
install "the other packages" -r requirements.txt
# The package itself: its folder goes on the environment's path, so notebooks and tests import what you edit.
"$BIN/python" -c 'import pathlib, sys, sysconfig
pathlib.Path(sysconfig.get_path("purelib"), "minilm.pth").write_text(sys.argv[1] + "\n", encoding="utf-8")' "$(pwd)" ||
    stop "Cannot write into $VENV: remove it (rm -r $VENV) and run the same command again."
touch "$VENV/.ready"
