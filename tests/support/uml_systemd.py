"""A guest of user-mode Linux whose first process is systemd, with the units of contrib/systemd installed as the how-to has it.

Nothing of this machine is started but the guest's agent: the units that Debian would start are masked. /etc, /var, /tmp and
/usr/local/sbin are in the guest's memory. The units hide /home, /root and /tmp from the programs, so these have TSQ, its Python and
the test's files in /mnt.
"""

import contextlib
import os
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

from tests.support import uml
from tests.support.uml import GUEST, ROOT, Guest

SYSTEMD = "/lib/systemd/systemd"
PROGRAMS = ("tsqd", "tsqctl", "tsq-server", "tsq-client", "tsq-wait-sync")
# Where the programs find what is this machine's.
TSQ, PYTHON, TEST = "/mnt/tsq", "/mnt/python", Path("/mnt/test")
_RUN = "/mnt/run"
# Of Debian's units, only the journal's are wanted.
_WANTED = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")
_TARGETS = ("sysinit.target.wants", "sockets.target.wants", "timers.target.wants")


def missing() -> str:
    """Why such guests are not possible here; empty: they are."""
    if found := uml.missing():
        return found
    return "" if os.path.exists(SYSTEMD) else f"{SYSTEMD} is missing (Debian: apt-get install systemd); `make peers` installs it"


@contextlib.contextmanager
def guest(directory: Path) -> Iterator[Guest]:
    """A guest until the end of the `with`. Its agent runs as root, in none of the units' sandboxes."""
    with uml.guest(directory, init=_boot(directory)) as it:
        it.interpreter = _RUN
        yield it


def _boot(directory: Path) -> str:
    masked = sorted({path.name for target in _TARGETS for path in Path("/lib/systemd/system", target).glob("*")} - {*_WANTED})
    packages = sysconfig.get_path("purelib").replace(str(ROOT), TSQ)
    return f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mkdir /run/etc
cp -a /etc/passwd /etc/group /etc/ld.so.cache /run/etc/
mount -t tmpfs -o mode=755 tmpfs /etc
cp -a /run/etc/. /etc/
rm -r /run/etc
mkdir -p /etc/systemd/system /etc/tsq
printf 'passwd: files\\ngroup: files\\nhosts: files\\n' > /etc/nsswitch.conf
echo 127.0.0.1 localhost > /etc/hosts
echo 0123456789abcdef0123456789abcdef > /etc/machine-id
mount -t tmpfs -o mode=755 tmpfs /var
mkdir -p /var/lib /var/log /var/cache
mkdir -m 1777 /var/tmp
ln -s /run /var/run

mount -t tmpfs -o mode=755 tmpfs /mnt
mkdir {TSQ} {PYTHON} {TEST}
mount --bind {ROOT} {TSQ}
mount --bind {sys.base_prefix} {PYTHON}
mount --bind {directory} {TEST}
mount -t tmpfs tmpfs /tmp
mount -t tmpfs -o mode=755 tmpfs /usr/local/sbin
cat > {_RUN} <<END
#!/bin/sh
export LD_LIBRARY_PATH={PYTHON}/lib PYTHONPATH={TSQ}:{packages} PYTHONDONTWRITEBYTECODE=1
exec {PYTHON}/bin/python3.{sys.version_info.minor} "\\$@"
END
for program in {" ".join(PROGRAMS)}; do
    printf '#!/bin/sh\\nexec {_RUN} {TSQ}/.venv/bin/%s "$@"\\n' $program > /usr/local/sbin/$program
done
chmod 755 {_RUN} /usr/local/sbin/*

cd /etc/systemd/system
cp {TSQ}/contrib/systemd/*.service {TSQ}/contrib/systemd/*.socket .
systemd-sysusers {TSQ}/contrib/systemd/tsq.sysusers.conf
for unit in tmp.mount {" ".join(masked)}; do
    ln -s /dev/null $unit
done
cat > guest.target <<END
[Unit]
Requires=agent.service
END
cat > agent.service <<END
[Unit]
DefaultDependencies=no
[Service]
Environment=HOME=/var/tmp
WorkingDirectory=/var
ExecStart={_RUN} -m tests.support.uml
END
ip link set lo up
ip addr add {GUEST}/24 dev vec0
ip link set vec0 up
exec {SYSTEMD} --unit=guest.target --log-target=console
"""
