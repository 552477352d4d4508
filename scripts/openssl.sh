#!/bin/sh
# Build the libcrypto that wheels carry: openssl.sh PREFIX. The version below is the only one; a newer one is two lines here.
# Comes in: OPENSSL_TARBALL, the release's archive, or it is downloaded; CC and AR, for another C library; MACHINE, for other processors.
# Goes out: PREFIX/lib/libcrypto.so.3 and PREFIX/include. It must never use an archive whose SHA-256 is another.
set -eu
VERSION=3.5.7
SHA256=a8c0d28a529ca480f9f36cf5792e2cd21984552a3c8e4aa11a24aa31aeac98e8
PREFIX=$1
ADDRESS=https://github.com/openssl/openssl/releases/download/openssl-$VERSION/openssl-$VERSION.tar.gz

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
tarball=${OPENSSL_TARBALL:-}
if [ -z "$tarball" ]; then
    tarball=$work/openssl.tar.gz
    curl --fail --silent --show-error --location --output "$tarball" "$ADDRESS"
fi
if ! echo "$SHA256  $tarball" | sha256sum --check --status; then
    echo "openssl.sh: $tarball is not OpenSSL $VERSION (its SHA-256 is not $SHA256)" >&2
    exit 1
fi
tar -xzf "$tarball" -C "$work" --strip-components 1
cd "$work"
# no-autoload-config: the system's openssl.cnf is for the system's OpenSSL. Everything that only TLS and programs use is left out.
./Configure "linux-$(echo "${MACHINE:-$(uname -m)}" | sed s/arm64/aarch64/)" --prefix="$PREFIX" --openssldir=/nonexistent --libdir=lib -O2 shared \
    no-apps no-tests no-docs no-module no-legacy no-autoload-config no-async no-ssl3 no-tls no-dtls no-quic no-cmp no-cms no-ct no-ts \
    no-srp no-gost no-idea no-seed no-camellia no-aria no-sm2 no-sm3 no-sm4 no-rc2 no-rc4 no-bf no-cast no-md4 no-mdc2 no-whirlpool \
    no-dsa no-engine no-afalgeng no-sock no-ui-console >/dev/null
for target in build_generated libcrypto.so; do
    make -s -j"$(getconf _NPROCESSORS_ONLN)" LDFLAGS=-s "$target" >"$work/log" 2>&1 || {
        tail -n 30 "$work/log" >&2
        exit 1
    }
done
mkdir -p "$PREFIX/lib" "$PREFIX/include/openssl"
cp -P libcrypto.so libcrypto.so.3 "$PREFIX/lib/"
cp include/openssl/*.h "$PREFIX/include/openssl/"
echo "$VERSION" >"$PREFIX/version"
