#!/bin/sh
# What pip cannot install. `build`: a compiler, Python's and OpenSSL's development files, venv. `peers`: programs that tests and
# benchmarks talk to. No service is started or left to start: chronyd as a system's daemon would set its clock.
# Installs them where that is allowed (root and apt), else names the command that does; missing peers are no error.
set -eu
PYTHON=${PYTHON:-python3}

may_install() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

install() {
    echo "prerequisites: installing $*"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Whether a service that keeps the clock runs here, which chrony's package would replace.
keeps_time() {
    [ -d /run/systemd/system ] && dpkg-query -W -f '${Provides} ${Status}\n' 2>/dev/null | grep -q 'time-daemon.* installed'
}

install_chrony() {
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' >$policy
        chmod 755 $policy
        trap 'rm -f /usr/sbin/policy-rc.d' EXIT
    fi
    if install chrony; then
        update-rc.d chrony disable >/dev/null 2>&1 || true
    else
        echo "prerequisites: could not install chrony; what needs it is skipped"
    fi
}

build() {
    if ! command -v "$PYTHON" >/dev/null 2>&1; then
        echo "prerequisites: $PYTHON not found; TSQ needs Python 3.11 or newer (Debian: apt-get install python3 python3-dev python3-venv)" >&2
        exit 1
    fi
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "prerequisites: $("$PYTHON" --version) found, Python 3.11 or newer expected; choose one with: make PYTHON=python3.x" >&2
        exit 1
    fi
    missing=""
    command -v cc >/dev/null 2>&1 || missing="$missing gcc libc6-dev"
    header=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -e "$header" ] || missing="$missing python3-dev"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || missing="$missing python3-venv"
    # Where no wheel of the cryptography package fits this machine, pip builds it against these.
    echo '#include <openssl/evp.h>' | cc -E -x c - >/dev/null 2>&1 || missing="$missing libssl-dev"
    [ -z "$missing" ] && return
    if may_install; then
        # shellcheck disable=SC2086
        install $missing
    else
        echo "prerequisites: missing:$missing; install them with: sudo apt-get install$missing" >&2
        exit 1
    fi
}

peers() {
    missing=""
    command -v tshark >/dev/null 2>&1 || missing="$missing tshark"
    command -v node >/dev/null 2>&1 || missing="$missing nodejs"
    command -v npm >/dev/null 2>&1 || missing="$missing npm"
    command -v ip >/dev/null 2>&1 || missing="$missing iproute2"
    command -v strace >/dev/null 2>&1 || missing="$missing strace"
    command -v nft >/dev/null 2>&1 || [ -x /usr/sbin/nft ] || missing="$missing nftables"
    # A kernel that runs as a process, with a clock that tests may set.
    command -v linux.uml >/dev/null 2>&1 || missing="$missing user-mode-linux"
    if [ -n "$missing" ]; then
        if may_install; then
            # shellcheck disable=SC2086
            install $missing || echo "prerequisites: could not install$missing; tests that need them are skipped"
        else
            echo "prerequisites: tests of foreign programs are skipped without:$missing (sudo apt-get install$missing)"
        fi
    fi
    if ! command -v chronyd >/dev/null 2>&1 && [ ! -x /usr/sbin/chronyd ]; then
        if may_install && ! keeps_time; then
            install_chrony
        else
            echo "prerequisites: what needs chronyd is skipped without: chrony (sudo apt-get install chrony; it replaces another time service)"
        fi
    fi
    quiche=tests/integration/quiche
    if command -v npm >/dev/null 2>&1 && [ -e $quiche/package.json ] && [ ! -d $quiche/node_modules ]; then
        (cd $quiche && npm install --silent --no-package-lock --no-audit --no-fund) ||
            echo "prerequisites: npm could not install quiche; tests that need it are skipped"
    fi
}

"$1"
