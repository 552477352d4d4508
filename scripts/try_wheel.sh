#!/bin/sh
# Install a wheel in a root without a compiler and without a network, and use it there: try_wheel.sh ROOT WHEEL [TEST...].
# Comes in: ROOT with Python, such as debootstrap or musl_root.sh make, also of another processor (qemu-user-static); TEST: files below
# tests/, which run there, too; SET: NAME=VALUE, for the programs there. Goes out: what they print. It must never write into ROOT: a
# layer in memory lies over it.
set -eu
ROOT=$(cd "$1" && pwd)
WHEEL=$2
shift 2
TREE=$(cd "$(dirname "$0")/.." && pwd)
MORE=$([ $# = 0 ] || echo pytest hypothesis)

# NAME-VERSION-PYTHON-ABI-PLATFORM.whl. The packages that TSQ needs may be for an older C library.
tags=$(basename "$WHEEL" .whl)
platform=${tags##*[-.]}
abi=$(echo "$tags" | cut -d- -f4)
older=$(echo "$platform" | sed s/manylinux_2_28/manylinux_2_17/)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
mkdir "$work/new" "$work/new/wheels" "$work/layer"
# shellcheck disable=SC2086
"${PYTHON:-python3}" -m pip download -qq --disable-pip-version-check --only-binary=:all: --dest "$work/new/wheels" \
    --platform "$platform" --platform "$older" --implementation cp --python-version "$(echo "$abi" | tr -dc 0-9)" \
    --abi "$abi" --abi abi3 --abi none "$WHEEL" pip $MORE
cp "$TREE/scripts/check_wheel.py" "$work/new"
[ $# = 0 ] || cp -R "$TREE/tests" "$TREE/pyproject.toml" "$work/new"

cat >"$work/inside" <<'END'
ip link set lo up
mount -t tmpfs tmpfs "$work/layer"
mkdir "$work/layer/upper" "$work/layer/work" "$work/layer/root"
there=$work/layer/root
mount -t overlay overlay -o "lowerdir=$ROOT,upperdir=$work/layer/upper,workdir=$work/layer/work" "$there"
mount -t proc proc "$there/proc"
mount --rbind /dev "$there/dev"
cp -R "$work/new" "$there/opt/new"
run() { env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/tmp TMPDIR=/tmp LC_ALL=C.UTF-8 $SET chroot "$there" "$@"; }
pip=$(cd "$there" && echo opt/new/wheels/pip-*.whl)
run python3 "/$pip/pip" install --quiet --disable-pip-version-check --no-index --find-links /opt/new/wheels --break-system-packages \
    --root-user-action ignore --no-warn-script-location tsq-time $MORE
run tsq-client --version
run python3 /opt/new/check_wheel.py --inside --exchange
[ $# = 0 ] || run python3 -I -c 'import os, runpy, sys
os.chdir("/opt/new")
sys.path.insert(0, "/opt/new")
sys.argv = ["pytest", "-p", "no:cacheprovider", "-o", "addopts=-q", *sys.argv[1:]]
runpy.run_module("pytest", run_name="__main__")' "$@"
END
SET=${SET:-}
export ROOT work MORE SET
unshare --net --mount --pid --fork --kill-child sh -eu "$work/inside" "$@"
