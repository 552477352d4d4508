"""A guest of user-mode Linux with a Debian of its own, in a directory, whose first process is systemd.

It may change its files; its network is the guest's. The guest's agent is what `uml` has, run by Debian's Python.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from tests.support import roots, uml
from tests.support.roots import Place
from tests.support.uml import GUEST, Guest

# In it are the agent, and the files that a test brings.
HERE = Path("/opt/guest")
# Of Debian's units, the journal's are wanted; the others wait for devices that a guest does not have.
_WANTED = ("systemd-journald.service", "systemd-journald.socket", "systemd-journald-dev-log.socket")
_TARGETS = ("sysinit.target.wants", "sockets.target.wants", "timers.target.wants")
# The small Debian has no program for it. SIOCSIFADDR, SIOCSIFNETMASK, SIOCSIFFLAGS: netdevice(7).
_NETWORK = f"""
import fcntl, socket, struct
with socket.socket() as it:
    def say(request, name, address):
        fcntl.ioctl(it, request, struct.pack("16sHH4s8x", name, socket.AF_INET, 0, socket.inet_aton(address)))
    for name, address in ((b"lo", "127.0.0.1"), (b"vec0", "{GUEST}")):
        say(0x8916, name, address)
        say(0x891C, name, "255.255.255.0")
        fcntl.ioctl(it, 0x8914, struct.pack("16sH22x", name, 1))
"""


def missing() -> str:
    """Why such guests are not possible here; empty: they are."""
    return roots.missing() or uml.missing()


@contextlib.contextmanager
def guest(directory: Path, place: Place) -> Iterator[Guest]:
    """A guest with the files of `place`, until the end of the `with`."""
    here = place.path / HERE.relative_to("/")
    here.mkdir(parents=True, exist_ok=True)
    shutil.copy(uml.__file__, here / "agent.py")
    (here / "network.py").write_text(_NETWORK)
    with uml.guest(directory, memory="384M", init=_boot(place), root=place.path) as it:
        it.interpreter = "python3"
        yield it


def _boot(place: Place) -> str:
    units = place.path / "lib/systemd/system"
    masked = sorted({path.name for target in _TARGETS for path in (units / target).glob("*")} - {*_WANTED})
    return f"""#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs tmpfs /tmp
mkdir -p /run/systemd/system
cd /run/systemd/system
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
Environment=HOME=/root PATH=$PATH DEBIAN_FRONTEND=noninteractive PYTHONDONTWRITEBYTECODE=1 LC_ALL=C
WorkingDirectory=/
ExecStart=/usr/bin/python3 {HERE}/agent.py
END
python3 {HERE}/network.py
exec /lib/systemd/systemd --unit=guest.target --log-target=console
"""
