#!/usr/bin/env bash
# The system packages that the tests use: installed when they are missing and the user may. Where they cannot be had,
# the tests that need them are skipped and say so; with CI=true they fail instead.
set -eu

missing=()
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx)
command -v redis-server >/dev/null || missing+=(redis-server)
command -v wrk >/dev/null || missing+=(wrk)
# For bjoern, which is compiled.
[ -e /usr/include/ev.h ] || [ -e /usr/local/include/ev.h ] || missing+=(libev-dev)
command -v cc >/dev/null || missing+=(gcc libc6-dev)
# For the example in Ruby, with which it comes. Node is bigger: its example is tested where it is there already.
command -v puma >/dev/null || missing+=(puma)
# For the page of the bench's report, which is looked at in a real browser: 300 MB on the disk.
command -v chromium-headless-shell >/dev/null || command -v chromium >/dev/null || missing+=(chromium-headless-shell)
[ ${#missing[@]} -eq 0 ] && exit 0

if ! command -v apt-get >/dev/null; then
    echo "note: not installed: ${missing[*]} (no apt-get here); the tests that need them are skipped" >&2
    exit 0
elif [ "$(id -u)" -eq 0 ]; then
    as_root=()
elif sudo -n true 2>/dev/null; then
    as_root=(sudo -n)
else
    echo "note: not installed: ${missing[*]}; the tests that need them are skipped." >&2
    echo "      To run them too: sudo apt-get install ${missing[*]}" >&2
    exit 0
fi

echo "installing ${missing[*]}" >&2
install() { # no service may be started by the installation: the tests start their own
    "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
        apt-get -o Dpkg::Use-Pty=0 install --yes --quiet --no-install-recommends "$@" </dev/null >&2
}
"${as_root[@]}" apt-get update --quiet </dev/null >&2 || true
# One by one: a package that one distribution lacks does not keep the others away.
for package in "${missing[@]}"; do
    install "$package" || echo "note: apt-get could not install $package; the tests that need it are skipped" >&2
done
