"""Virtual machines with their own kernel and clock: user-mode Linux, which runs as a process and can set only its own clock.

A guest has this machine's files, read-only, and its own network, a namespace with a TAP device: the guest is 10.77.0.2, the test's
processes in the namespace are 10.77.0.1. The guest's agent (`python -m tests.support.uml`, the second half of this file) runs
commands and sends the guest's time. Everything is removed at the end of the `with`.
"""

import contextlib
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOST, GUEST = "10.77.0.1", "10.77.0.2"
PORT = 7701
_CLONE_NEWNET = 0x40000000
_BOOT_SECONDS = 180.0
_READINGS = 60
_PACKAGE = "user-mode-linux"


@dataclass(frozen=True)
class Done:
    """The result of a command in a guest."""

    status: int
    out: str
    err: str


@dataclass
class Running:
    """A running command in a guest."""

    socket: socket.socket
    pid: int

    def wait(self, seconds: float = 300.0) -> Done:
        """Wait for its end; the result."""
        self.socket.settimeout(seconds)
        with self.socket:
            return Done(**_receive(self.socket))


@dataclass(frozen=True)
class Offset:
    """The guest's clock minus this machine's, and the bound of the error; seconds."""

    offset: float
    error: float


@dataclass
class Guest:
    """A booted guest. directory: a place for files that the guest reads. interpreter: Python, by its name in the guest."""

    namespace: str
    directory: Path
    _cleanup: ExitStack = field(repr=False)
    interpreter: str = sys.executable

    def start(self, *command: object, **environment: str) -> Running:
        """Start a command in the guest."""
        connection = self.connected()
        _send(connection, {"run": [str(word) for word in command], "environment": environment})
        return Running(connection, _receive(connection)["pid"])

    def run(self, *command: object, **environment: str) -> Done:
        """Run a command in the guest, to its end."""
        return self.start(*command, **environment).wait()

    def python(self, code: str) -> str:
        """Run Python code as root in the guest; its output."""
        done = self.run(self.interpreter, "-c", code)
        assert done.status == 0, done.err
        return done.out

    def kill(self, pid: int, number: int) -> None:
        """Send a signal to a process of the guest."""
        self.python(f"import os; os.kill({pid}, {number})")

    def offset(self) -> Offset:
        """How far the guest's clock is ahead of this machine's, from the exchange with the least delay of many."""
        best: tuple[int, int] | None = None
        with self.connected() as connection:
            reader = connection.makefile("rb")
            for _ in range(_READINGS):
                before = time.time_ns()
                connection.sendall(b'{"clock": true}\n')
                there = int(reader.readline())
                after = time.time_ns()
                if best is None or after - before < best[0]:
                    best = after - before, there - (before + after) // 2
            reader.close()
        assert best is not None
        return Offset(best[1] / 1e9, best[0] / 2e9)

    def connected(self, seconds: float = 60.0) -> socket.socket:
        """A connection to the guest's agent."""
        connection = in_namespace(self.namespace, lambda: socket.create_connection((GUEST, PORT), seconds))
        connection.settimeout(300)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return connection

    def process(self, command: Sequence[object], **options) -> subprocess.Popen:
        """Start a process of this machine in the guest's network, until the guest ends."""
        process = subprocess.Popen(["ip", "netns", "exec", self.namespace, *map(str, command)], **options)
        self._cleanup.callback(_end, process)
        return process


def missing() -> str:
    """Why guests are not possible here; empty: they are."""
    if os.geteuid() != 0:
        return "a guest's network needs root"
    for program, package in [("ip", "iproute2"), ("linux.uml", _PACKAGE)]:
        if shutil.which(program) is None:
            return f"{program} is not installed (Debian: apt-get install {package}); `make peers` installs it where it may"
    if not os.path.exists("/dev/net/tun"):
        return "/dev/net/tun is missing"
    return ""


@contextlib.contextmanager
def guest(directory: Path, memory: str = "192M", init: str = "", root: Path | None = None) -> Iterator[Guest]:
    """A guest until the end of the `with`. init: the first program's text, which starts the agent; empty: nothing but the agent.
    root: a directory with all its files, which it may change; None: this machine's, read-only."""
    tag = secrets.token_hex(3)
    namespace = f"tsq-{tag}-u"
    with ExitStack() as cleanup:
        _ip("netns", "add", namespace)
        cleanup.callback(_ip, "netns", "delete", namespace)
        _ip("-n", namespace, "link", "set", "lo", "up")
        _ip("netns", "exec", namespace, "ip", "tuntap", "add", "dev", "tap0", "mode", "tap")
        _ip("-n", namespace, "address", "add", f"{HOST}/24", "dev", "tap0")
        _ip("-n", namespace, "link", "set", "tap0", "up")
        it = Guest(namespace, directory, cleanup)
        boot = (root or directory) / "boot" / "guest"
        boot.parent.mkdir(exist_ok=True)
        boot.write_text(init or _boot())
        boot.chmod(0o755)
        console = cleanup.enter_context((directory / "console").open("wb"))
        process = it.process(
            [
                "linux.uml", f"mem={memory}", "root=/dev/root", "rootfstype=hostfs", f"rootflags={root or '/'}",
                "rw" if root else "ro", f"init=/{boot.relative_to(root or '/')}",
                "con=null", "con0=fd:0,fd:1", "vec0:transport=tap,ifname=tap0,depth=64", f"uml_dir={directory}/", f"umid={tag}",
            ],
            # A session of its own: `_end` kills its threads and children, too.
            stdin=subprocess.DEVNULL, stdout=console, stderr=subprocess.STDOUT, start_new_session=True,
        )
        _wait_for(it, process)
        # The guest ends when this connection closes, also if this process is killed.
        life = cleanup.enter_context(it.connected())
        _send(life, {"life": True})
        yield it


def in_namespace(namespace: str, make: Callable[[], socket.socket]) -> socket.socket:
    """Make a socket in a network namespace. Only a new thread enters the namespace; the socket stays in it."""
    made: list[socket.socket | BaseException] = []

    def enter() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{namespace}", "rb") as place:
                if libc.setns(place.fileno(), _CLONE_NEWNET) != 0:
                    raise OSError(ctypes.get_errno(), f"setns: {os.strerror(ctypes.get_errno())}")
            made.append(make())
        except OSError as error:
            made.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    (result,) = made
    if isinstance(result, BaseException):
        raise result
    return result


def _boot() -> str:
    """The guest's init script. All written files are in memory."""
    return f"""#!/bin/sh
export HOME=/var/tmp TMPDIR=/var/tmp PATH=/usr/sbin:/usr/bin:/sbin:/bin PYTHONDONTWRITEBYTECODE=1 PYTHONPATH={ROOT}
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /var/tmp
mount -t tmpfs tmpfs /run
ip link set lo up
ip addr add {GUEST}/24 dev vec0
ip link set vec0 up
cd /var/tmp
exec {sys.executable} -m tests.support.uml
"""


def _wait_for(it: Guest, process: subprocess.Popen) -> None:
    end = time.monotonic() + _BOOT_SECONDS
    while True:
        try:
            it.connected(5.0).close()
            it.run("true")
            return
        except OSError:
            console = (it.directory / "console").read_text(errors="replace")[-2000:]
            assert process.poll() is None, f"the guest ended: {console}"
            assert time.monotonic() < end, f"the guest does not boot: {console}"
            time.sleep(0.1)


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, timeout=60)


def _end(process: subprocess.Popen) -> None:
    """Kill a process, and its whole session if it leads one: a guest's processes are processes of this machine."""
    with contextlib.suppress(ProcessLookupError):
        if os.getpgid(process.pid) == process.pid:
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def _send(connection: socket.socket, message: dict) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _receive(connection: socket.socket) -> dict:
    """One line, read byte by byte, because another may follow."""
    line = b""
    while not line.endswith(b"\n"):
        more = connection.recv(1)
        if not more:
            raise ConnectionError("the guest's agent ended")
        line += more
    return json.loads(line)


# ------------------------------------------------------------------------------------------------- inside of the guest


def _agent() -> None:
    """Serve all connections: run commands, and send the guest's time."""
    with socket.create_server(("", PORT), backlog=16) as listener:
        while True:
            connection, _ = listener.accept()
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=_serve, args=(connection,), daemon=True).start()


def _serve(connection: socket.socket) -> None:
    with connection, connection.makefile("rb") as reader, contextlib.suppress(OSError):
        for line in reader:
            received = time.time_ns()
            if line == b'{"clock": true}\n':
                connection.sendall(b"%d\n" % ((received + time.time_ns()) // 2))
                continue
            wanted = json.loads(line)
            if "life" in wanted:
                with contextlib.suppress(OSError):
                    reader.read()
                Path("/proc/sysrq-trigger").write_text("o")
            process = subprocess.Popen(
                wanted["run"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env=os.environ | wanted["environment"],
            )
            _send(connection, {"pid": process.pid})
            out, err = process.communicate()
            _send(connection, {"status": process.returncode, "out": out, "err": err})


if __name__ == "__main__":
    _agent()
