#!/bin/sh
# Build the Debian package: deb.sh DIRECTORY [VERSION]. Made of what .venv has installed (debian/rules).
# Goes out: DIRECTORY/tsq-time_VERSION_ARCHITECTURE.deb and its .changes. It must never write into the source tree, nor fetch anything.
set -eu
cd "$(dirname "$0")/.."
OUT=$(mkdir -p "$1" && cd "$1" && pwd)
ENVIRONMENT=${ENVIRONMENT:-$PWD/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
mkdir "$work/tsq-time"
cp -R debian contrib share deploy scripts README.md CHANGELOG.md "$work/tsq-time"
cd "$work/tsq-time"
[ -z "${2:-}" ] || sed -i "1s/(.*)/($2)/" debian/changelog
if ! ENVIRONMENT=$ENVIRONMENT dpkg-buildpackage --build=binary --no-sign --jobs=auto >"$work/log" 2>&1; then
    tail -n 30 "$work/log" >&2
    exit 1
fi
mv "$work"/*.deb "$work"/*.changes "$work"/*.buildinfo "$OUT"
