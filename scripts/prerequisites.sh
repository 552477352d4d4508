#!/bin/sh
# Check for what pip cannot install. `build`: a C compiler, the development files of Python and OpenSSL, venv.
# `debian`: what builds and checks the Debian package.
# `peers`: programs that tests and benchmarks run TSQ against; what is missing is no error.
# Root with apt-get: print each package, then install it. INSTALL=0 or any other user: install nothing, print the command.
# Never start a service: a running chronyd would set this machine's clock.
set -eu
PYTHON=${PYTHON:-python3}
INSTALL=${INSTALL:-1}
SBIN=${SBIN:-/usr/sbin}

say() { echo "prerequisites: $*"; }

may_install() { [ "$INSTALL" != 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; }

# The reason why may_install is false, as a part of a sentence.
why_not() {
    if [ "$INSTALL" = 0 ]; then echo "INSTALL=0 forbids it"; else echo "it needs root and apt-get"; fi
}

# Print what apt-get will install, dependencies included, then install it.
install() {
    apt-get update -qq
    say "installing: $(apt-get install -s --no-install-recommends "$@" | sed -n 's/^Inst \([^ ]*\).*/\1/p' | tr '\n' ' ')"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

have() { command -v "$1" >/dev/null 2>&1 || [ -x "$SBIN/$1" ]; }

# lack PACKAGE PURPOSE: note a package that is missing, and print what it is for.
lack() {
    say "missing: $1 ($2)"
    missing="$missing $1"
}

# need PROGRAM PACKAGE PURPOSE
need() { have "$1" || lack "$2" "$3"; }

# Whether another service keeps the clock here: installing chrony would replace it.
keeps_time() {
    [ -d /run/systemd/system ] && dpkg-query -W -f '${Provides} ${Status}\n' 2>/dev/null | grep -q 'time-daemon.* installed'
}

# Forbid starting services until this script ends (invoke-rc.d(8)).
forbid_services() {
    policy=$SBIN/policy-rc.d
    if [ ! -e "$policy" ]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        trap 'rm -f "$policy"' EXIT
    fi
}

# What would run as a service must not: it is not started, and disabled.
install_without_service() {
    forbid_services
    if install "$@"; then
        update-rc.d "$1" disable >/dev/null 2>&1 || true
    else
        say "could not install $1; tests that need it are skipped"
    fi
}

# ntpd-rs of Debian 13, and the C library that it wants, into build/ntpd-rs: nothing of it is installed or started. Tests run it in a
# guest, whose clock it keeps.
unpack_ntpd_rs() {
    # The mirror that this system uses.
    # shellcheck disable=SC2016
    mirror=$(apt-get indextargets --format '$(REPO_URI) $(ORIGIN) $(COMPONENT)' 'Created-By: Packages' |
        sed -n '/security/d; s/ Debian main$//p' | sed -n 1p)
    [ -n "$mirror" ] || return 1
    say "unpacking into build/ntpd-rs: ntpd-rs, libc6, libgcc-s1 of Debian 13 (a foreign clock daemon for tests)"
    new=$PWD/build/ntpd-rs.new
    rm -rf "$new"
    mkdir -p "$new/lists/partial" "$new/cache/archives/partial" "$new/state" "$new/root"
    : >"$new/status"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >"$new/sources.list"
    cat >"$new/apt.conf" <<END
Dir::Etc::sourcelist "$new/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$new/state";
Dir::State::lists "$new/lists";
Dir::State::status "$new/status";
Dir::Cache "$new/cache";
APT::Sandbox::User "root";
END
    (
        cd "$new/root"
        APT_CONFIG=$new/apt.conf
        export APT_CONFIG
        apt-get update -qq && apt-get download -qq ntpd-rs libc6 libgcc-s1 || exit 1
        for package in ./*.deb; do
            dpkg-deb -x "$package" . || exit 1
        done
        rm -f ./*.deb
    ) || return 1
    mv "$new/root" build/ntpd-rs
    rm -rf "$new"
}

build() {
    if ! command -v "$PYTHON" >/dev/null 2>&1; then
        say "$PYTHON not found; TSQ needs Python 3.11 or newer (Debian: apt-get install python3 python3-dev python3-venv)" >&2
        exit 1
    fi
    if ! "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        say "$("$PYTHON" --version) found, Python 3.11 or newer expected; choose another one: make PYTHON=python3.x" >&2
        exit 1
    fi
    missing=""
    need cc "gcc libc6-dev" "compiles the data plane"
    header=$("$PYTHON" -c 'import sysconfig; print(sysconfig.get_path("include"))')/Python.h
    [ -e "$header" ] || lack python3-dev "headers of Python, for the data plane"
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null || lack python3-venv "creates the virtual environment"
    # Where no wheel of the cryptography package fits this machine, pip builds it from source with these headers, too.
    echo '#include <openssl/evp.h>' | cc -E -x c - >/dev/null 2>&1 || lack libssl-dev "headers of OpenSSL, for the data plane"
    [ -z "$missing" ] && return
    if may_install; then
        # shellcheck disable=SC2086
        install $missing
    else
        say "nothing is installed: $(why_not). Install what is missing with: sudo apt-get install$missing" >&2
        exit 1
    fi
}

debian() {
    missing=""
    need dh debhelper "builds the Debian package"
    need dh_apparmor dh-apparmor "puts its AppArmor profiles in place"
    need chrpath chrpath "removes a path of the build machine from compiled modules"
    need lintian lintian "checks it"
    need debootstrap debootstrap "makes a small Debian in a directory, in which tests install it"
    need apparmor_parser apparmor "checks the AppArmor profiles; none is loaded"
    [ -z "$missing" ] && return
    if may_install; then
        forbid_services
        # shellcheck disable=SC2086
        install $missing || say "could not install$missing; tests that need them are skipped"
    else
        say "nothing is installed: $(why_not). Tests that need them are skipped. To install: sudo apt-get install$missing"
    fi
}

peers() {
    missing=""
    need tshark tshark "tests decrypt TSQ's packets with it"
    need node nodejs "runs the QUIC stack quiche, a foreign client for tests"
    need npm npm "fetches quiche"
    need ip iproute2 "tests make networks in namespaces"
    need strace strace "tests count and fail system calls"
    need nft nftables "tests drop packets in namespaces"
    need linux.uml user-mode-linux "tests set the clock of a kernel that runs as a process"
    need chromium chromium "opens the pages over HTTP/3 in tests, without a window"
    need crun crun "tests run the container image's tree with it"
    need umoci umoci "unpacks the image, as an engine does"
    need systemd-analyze systemd "tests check the service units with it; no service is started, and init stays what it is"
    if [ -n "$missing" ]; then
        if may_install; then
            forbid_services
            # shellcheck disable=SC2086
            install $missing || say "could not install$missing; tests that need them are skipped"
        else
            say "nothing is installed: $(why_not). Tests that need them are skipped. To install: sudo apt-get install$missing"
        fi
    fi
    missing=""
    need chronyd chrony "tests and benchmarks compare TSQ with it; it is not started as a service"
    if [ -n "$missing" ]; then
        if ! may_install; then
            say "nothing is installed: $(why_not). Tests that need chronyd are skipped. To install: sudo apt-get install chrony"
        elif keeps_time; then
            say "chrony is not installed: it would replace this system's time service. Tests that need chronyd are skipped"
        else
            install_without_service chrony
        fi
    fi
    missing=""
    need promtool prometheus "its promtool checks alert rules; the server is not started"
    if [ -n "$missing" ]; then
        if may_install; then
            install_without_service prometheus
        else
            say "nothing is installed: $(why_not). Tests that need promtool are skipped. To install: sudo apt-get install prometheus"
        fi
    fi
    if [ "$INSTALL" != 0 ] && may_install && [ ! -d build/ntpd-rs ]; then
        unpack_ntpd_rs || say "could not unpack ntpd-rs; tests that need it are skipped"
    fi
    missing=""
    need nginx nginx "tests forward datagrams with it; it is not started as a service"
    if [ -n "$missing" ]; then
        lack libnginx-mod-stream "nginx's module that forwards UDP"
        if may_install; then
            install_without_service nginx libnginx-mod-stream
        else
            say "nothing is installed: $(why_not). Tests that need nginx are skipped. To install: sudo apt-get install$missing"
        fi
    fi
    debian
    quiche=tests/integration/quiche
    if [ "$INSTALL" != 0 ] && have npm && [ -e $quiche/package.json ] && [ ! -d $quiche/node_modules ]; then
        say "installing into $quiche with npm: quiche (a foreign QUIC client for tests)"
        (cd $quiche && npm install --silent --no-package-lock --no-audit --no-fund) ||
            say "npm could not install quiche; tests that need it are skipped"
    fi
}

"$1"
