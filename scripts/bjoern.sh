#!/usr/bin/env bash
# bjoern.sh PYTHON: compile bjoern into that environment; without libev or a compiler its tests are skipped.
set -eu
python=$1

"$python" -c 'import bjoern' 2>/dev/null && exit 0
if ! "$python" -m pip install --quiet --disable-pip-version-check 'bjoern>=3.2.2' </dev/null >/dev/null 2>&1; then
    echo "note: bjoern could not be compiled (libev-dev, a C compiler and Python's headers are needed);" >&2
    echo "      the tests that need it are skipped" >&2
fi
