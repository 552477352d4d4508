#!/bin/sh
# Make a root with musl, Python and nothing else, in which wheels for musl are tried (try_wheel.sh): musl_root.sh DIRECTORY.
# Comes in: musl-gcc and musl's loader (Debian: musl-tools); PYTHON_TARBALL, ZLIB_TARBALL and OPENSSL_TARBALL, or they are downloaded;
# LIBRARIES, a directory that keeps what Python is linked with; LOADER, of a newer musl than that which compiles.
# Goes out: DIRECTORY/lib/ld-musl-*.so.1, DIRECTORY/usr/bin/python3. It must never use an archive whose SHA-256 is another, nor glibc.
set -eu
SCRIPTS=$(cd "$(dirname "$0")" && pwd)
ROOT=$(mkdir -p "$1" && cd "$1" && pwd)
MACHINE=$(uname -m)
OPENSSL=$(sed -n 's/^VERSION=//p' "$SCRIPTS/openssl.sh")

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM

# unpack NAME SHA256 ADDRESS FILE: an archive, FILE if that is given, into $work/NAME.
unpack() {
    archive=${4:-}
    if [ -z "$archive" ]; then
        archive=$work/$1.tar
        curl --fail --silent --show-error --location --output "$archive" "$3"
    fi
    if ! echo "$2  $archive" | sha256sum --check --status; then
        echo "musl_root.sh: $archive is another archive than that of $3 (its SHA-256 is not $2)" >&2
        exit 1
    fi
    mkdir "$work/$1"
    tar -xf "$archive" -C "$work/$1" --strip-components 1
}

# quietly COMMAND...: its last lines if it fails.
quietly() {
    "$@" >"$work/log" 2>&1 || {
        tail -n 30 "$work/log" >&2
        exit 1
    }
}

command -v musl-gcc >/dev/null || {
    echo "musl_root.sh: musl-gcc not found; install it (Debian: apt-get install musl-tools)" >&2
    exit 1
}
unpack python 93e583f243454e6e9e4588ca2c2662206ad961659863277afcdb96801647d640 \
    https://www.python.org/ftp/python/3.13.5/Python-3.13.5.tar.xz "${PYTHON_TARBALL:-}"
unpack zlib 60dd315c07f616887caa029408308a018ace66e3d142726a97db164b3b8f69fb \
    https://deb.debian.org/debian/pool/main/z/zlib/zlib_1.3.dfsg+really1.3.1.orig.tar.gz "${ZLIB_TARBALL:-}"
unpack openssl "$(sed -n 's/^SHA256=//p' "$SCRIPTS/openssl.sh")" \
    "https://github.com/openssl/openssl/releases/download/openssl-$OPENSSL/openssl-$OPENSSL.tar.gz" "${OPENSSL_TARBALL:-}"

# The kernel's headers alone: those of glibc lie beside them.
mkdir "$work/kernel"
ln -s /usr/include/linux /usr/include/asm-generic "$work/kernel"
ln -s "$(echo "/usr/include/$MACHINE-linux-"*/asm)" "$work/kernel/asm"
# Python's configure compares Debian's name for the C library, which is that of glibc.
cat >"$work/cc" <<END
#!/bin/sh
[ "\$1" = --print-multiarch ] || exec musl-gcc -idirafter "$work/kernel" "\$@"
END
chmod +x "$work/cc"
CC=$work/cc
PKG_CONFIG_LIBDIR=/nonexistent
export CC PKG_CONFIG_LIBDIR
jobs=$(getconf _NPROCESSORS_ONLN)

# What Python needs for `ssl` and `zlib`, inside of its modules: TSQ's wheel has to bring the libcrypto that TSQ uses.
LIBRARIES=${LIBRARIES:-$work/libraries}
if [ ! -e "$LIBRARIES/lib/libssl.a" ]; then
    cd "$work/zlib"
    CFLAGS="-O2 -fPIC" quietly ./configure --static --prefix="$LIBRARIES"
    quietly make -j"$jobs" install
    cd "$work/openssl"
    quietly ./Configure "linux-$MACHINE" --prefix="$LIBRARIES" --libdir=lib --openssldir=/etc/ssl -O1 -fPIC \
        no-shared no-apps no-tests no-docs no-module no-legacy no-async no-engine no-quic no-afalgeng
    quietly make -s -j"$jobs" build_generated
    quietly make -s -j"$jobs" libcrypto.a libssl.a
    cp -R include/openssl "$LIBRARIES/include"
    cp libcrypto.a libssl.a "$LIBRARIES/lib"
fi
cd "$work/python"
quietly ./configure --prefix=/usr --with-openssl="$LIBRARIES" --disable-test-modules --without-ensurepip --without-doc-strings \
    ZLIB_CFLAGS="-I$LIBRARIES/include" ZLIB_LIBS="-L$LIBRARIES/lib -lz" OPT="-O1 -DNDEBUG"
quietly make -j"$jobs"
quietly make install DESTDIR="$work/root"

mkdir -p "$ROOT/usr/bin" "$ROOT/usr/lib" "$ROOT/lib" "$ROOT/etc" "$ROOT/proc" "$ROOT/dev" "$ROOT/opt"
mkdir -p -m 1777 "$ROOT/tmp"
cp "${LOADER:-/lib/ld-musl-$MACHINE.so.1}" "$ROOT/lib/ld-musl-$MACHINE.so.1"
# Its name as a library, which modules are linked to.
ln -sf "ld-musl-$MACHINE.so.1" "$ROOT/lib/libc.musl-$MACHINE.so.1"
ln -sf "ld-musl-$MACHINE.so.1" "$ROOT/lib/libc.so"
cp -R "$work/root/usr/lib/python3.13" "$ROOT/usr/lib/"
cp "$work/root/usr/bin/python3.13" "$ROOT/usr/bin/"
ln -sf python3.13 "$ROOT/usr/bin/python3"
echo "127.0.0.1 localhost" >"$ROOT/etc/hosts"
echo "root:x:0:0::/tmp:/usr/bin/python3" >"$ROOT/etc/passwd"
chroot "$ROOT" "/lib/ld-musl-$MACHINE.so.1" 2>&1 | sed -n 2p
chroot "$ROOT" /usr/bin/python3 -c 'import ssl, zlib, sys, sysconfig; print(sys.version, sysconfig.get_config_var("EXT_SUFFIX"))'
