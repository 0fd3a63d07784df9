#!/usr/bin/env bash
# venv.sh PYTHON DIRECTORY: make the virtual environment if it is not there, or make it again if its Python is gone.
set -eu
python=${1:-} directory=$2

if [ -x "$directory/bin/python" ] && "$directory/bin/python" -m pip --version >/dev/null 2>&1; then
    exit 0
fi
if [ -z "$python" ]; then
    echo "trapeze needs Python 3.11 or newer; none was found (say PYTHON=/path/to/python)" >&2
    exit 1
fi
if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "trapeze needs Python 3.11 or newer; $python is $("$python" --version 2>&1)" >&2
    exit 1
fi
rm -rf "$directory"
if ! "$python" -m venv "$directory"; then
    rm -rf "$directory"
    echo "$python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
    exit 1
fi
