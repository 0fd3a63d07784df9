#!/bin/bash
# Run the tests: tests.sh PYTHON [ARGUMENT OF PYTEST]...
#
# The chaos tests load the whole machine, so that they go first and alone. Most others wait for processes: three at a time
# are twice as fast on two processors, but then some get less of them than their limits of time allow for. What has failed
# is run once more, alone, and has to pass there.
set -u
python=$1
shift
failed=0

phase() {
    "$python" -m pytest "$@" </dev/null
    case $? in
    0 | 5) ;; # 5: no test was chosen
    1) failed=1 ;;
    *) exit 2 ;; # interrupted, or it could not run: nothing more
    esac
}

phase -m chaos -o faulthandler_timeout=0 "$@"
phase -m "not chaos" -n 3 "$@"
[ $failed = 0 ] || exec "$python" -m pytest --last-failed --last-failed-no-failures none "$@" </dev/null
