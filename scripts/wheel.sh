#!/bin/sh
# Build wheels with libcrypto inside, for one Python and one C library: wheel.sh SOURCE DIRECTORY. SOURCE is an unpacked sdist.
# Comes in: PYTHON, which builds; OPENSSL, a prefix of openssl.sh; PLATFORM, the tag, which auditwheel checks; CC, a compiler for it.
# Goes out: the wheel in DIRECTORY. It must never take a libcrypto of this machine, nor give a tag that the wheel does not earn.
set -eu
SOURCE=$1
OUT=$(mkdir -p "$2" && cd "$2" && pwd)
PYTHON=${PYTHON:-python3}
CC=${CC:-cc}
AUDITWHEEL=${AUDITWHEEL:-auditwheel}
SCRIPTS=$(cd "$(dirname "$0")" && pwd)

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
policy=$PLATFORM
case $PLATFORM in
manylinux*_"$(uname -m)") ;;
*)
    # Of another C library or processor, auditwheel knows by the wheel's name.
    policy=auto
    printf '[bdist_wheel]\nplat_name = %s\n' "$PLATFORM" >"$work/config"
    export DIST_EXTRA_CONFIG="$work/config"
    ;;
esac
(
    cd "$SOURCE"
    # A directory for each Python; what Cython wrote is the same for all.
    rm -rf build/lib.* build/temp.* build/bdist.*
    CC=$CC LDSHARED="$CC -shared" CFLAGS="-I$OPENSSL/include ${CFLAGS:-}" LDFLAGS="-s -L$OPENSSL/lib ${LDFLAGS:-}" PYTHONWARNINGS=ignore \
        "$PYTHON" -c 'import setuptools.build_meta as b, sys; b.build_wheel(sys.argv[1])' "$work" >"$work/log" 2>&1
) || {
    tail -n 30 "$work/log" >&2
    exit 1
}
"$PYTHON" "$SCRIPTS/sbom.py" wheel "$work"/*.whl --libcrypto "$(cat "$OPENSSL/version")"
LD_LIBRARY_PATH=$OPENSSL/lib "$AUDITWHEEL" repair --plat "$policy" --only-plat --wheel-dir "$work/out" "$work"/*.whl
made=$(echo "$work"/out/*.whl)
case $made in
# Where auditwheel judges by the name, it adds the oldest tag that the wheel earns.
*-"$PLATFORM".whl | *."$PLATFORM".whl) mv "$made" "$OUT" ;;
*)
    echo "wheel.sh: $made found, the tag $PLATFORM expected" >&2
    exit 1
    ;;
esac
