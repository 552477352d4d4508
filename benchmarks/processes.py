"""Programs that benchmarks run: the C echo and its load, chronyd, TSQ's server with or without its data plane, other TSQ servers.

Comes in: a directory for files, a prefix to run them elsewhere (a network namespace). Goes out: processes with their ports. Each
ends by its process id when its `with` ends, and with its parent when that is killed. It must never touch the system clock: chronyd
runs with -x, its own configuration, no command port and no socket outside the directory.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tsq.options import Target, parse_target

HERE = Path(__file__).parent
QUICHE = HERE.parent / "tests" / "integration" / "quiche"
HOST = "127.0.0.1"
# The kernel ends the process when its parent ends, for any reason.
WITH_PARENT = ("setpriv", "--pdeathsig", "KILL")


class Process:
    """A program until the end of the `with`."""

    def __init__(self, command: Sequence[str | Path], *, prefix: Sequence[str] = (), output: Path | None = None) -> None:
        self._command = [*WITH_PARENT, *prefix, *map(str, command)]
        self._errors = output
        self.process: subprocess.Popen[str] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def line(self) -> str:
        """The next line of its output."""
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline()

    def stop(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.communicate(timeout=10)

    def __enter__(self) -> Self:
        errors = self._errors.open("a") if self._errors is not None else None
        try:
            # A process group of its own: Ctrl-C goes to the parent alone, which then ends this process.
            self.process = subprocess.Popen(
                self._command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=HERE.parent,
                process_group=0,
            )
        finally:
            if errors is not None:
                errors.close()
        try:
            self.ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def ready(self) -> None:
        """Wait until the server is ready."""


class TsqServer(Process):
    """tsq-server, or with data_plane=False the same through aioquic alone. more: further options of the command."""

    def __init__(
        self,
        certificate: Path,
        key: Path,
        *,
        host: str = HOST,
        data_plane: bool = True,
        prefix: Sequence[str] = (),
        more: Sequence[str] = (),
    ) -> None:
        module = "tsq.cli.server" if data_plane else "benchmarks.alone"
        files = ["--cert", certificate, "--key", key]
        options = ["--local-stratum", "1", "--log-level", "error", "--workers", "1", *more]
        command = [sys.executable, "-m", module, "--listen", f"{host}:0", *files, *options]
        super().__init__(command, prefix=prefix)
        self.target = Target(host)

    def ready(self) -> None:
        line = self.line()
        if "listening on" not in line:
            raise RuntimeError(f"the server did not start: {line!r}")
        self.target = parse_target(line.split()[3])


class Programs:
    """The C programs of this directory, compiled."""

    def __init__(self, directory: Path) -> None:
        self.echo, self.volley = (self._compile(name, directory) for name in ("echo", "volley"))

    def _compile(self, name: str, directory: Path) -> Path:
        program = directory / name
        subprocess.run(["cc", "-O2", "-o", program, HERE / f"{name}.c"], check=True, timeout=60)
        return program


class Echo(Process):
    """The C echo, with batches of 32."""

    def __init__(self, programs: Programs) -> None:
        super().__init__([programs.echo, "32"])
        self.port = 0

    def ready(self) -> None:
        self.port = int(self.line())


@dataclass(frozen=True, slots=True)
class Volley:
    """The results of one run of the C load. delays: seconds, only with one datagram in flight."""

    sent: int
    answered: int
    seconds: float
    cpu: float
    answer_size: int
    delays: tuple[float, ...] = ()


def volley(
    programs: Programs, port: int, flight: int, seconds: float, datagram: bytes | Sequence[bytes], clients: int = 1
) -> Volley:
    """Run the C load: a fixed number of datagrams in flight, these in turn, from this number of addresses in turn."""
    command = [*WITH_PARENT, programs.volley, str(port), str(flight), str(seconds), str(clients)]
    lines = "\n".join(one.hex() for one in ([datagram] if isinstance(datagram, bytes) else datagram))
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, timeout=seconds + 30, check=True, process_group=0
    )
    first, _, delays = done.stdout.partition("\n")
    sent, answered, spent, cpu, size = first.split()
    return Volley(int(sent), int(answered), float(spent), float(cpu), int(size), tuple(float(ns) / 1e9 for ns in delays.split()))


class Chronyd(Process):
    """chronyd in the foreground with this configuration, its files in a directory of its own."""

    def __init__(self, directory: Path, configuration: Sequence[str], *, prefix: Sequence[str] = ()) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        own = [
            "user root", f"pidfile {directory}/chronyd.pid", "bindcmdaddress /", "cmdport 0", f"logdir {directory}",
            f"driftfile {directory}/drift",
        ]
        file = directory / "chrony.conf"
        file.write_text("\n".join([*own, *configuration]) + "\n")
        super().__init__(["chronyd", "-x", "-d", "-f", file], prefix=prefix, output=directory / "messages")
        self._messages = directory / "messages"

    def ready(self) -> None:
        end = time.monotonic() + 5
        while "Disabled control of system clock" not in self._said():
            if time.monotonic() > end or self.process is None or self.process.poll() is not None:
                raise RuntimeError(f"chronyd did not start: {self._said()}")
            time.sleep(0.02)
        time.sleep(0.2)

    def _said(self) -> str:
        return self._messages.read_text() if self._messages.exists() else ""


class NtsServer(Chronyd):
    """chronyd as a server of NTP and NTS. port: NTP's, UDP; establishment: NTS-KE's, TCP."""

    def __init__(
        self, directory: Path, certificate: Path, key: Path, *, host: str = HOST, prefix: Sequence[str] = ()
    ) -> None:
        self.port, self.establishment = free_port(), free_port(socket.SOCK_STREAM)
        configuration = [
            f"port {self.port}", f"bindaddress {host}", "allow", "local stratum 1", f"ntsport {self.establishment}",
            f"ntsservercert {certificate}", f"ntsserverkey {key}", f"ntsdumpdir {directory}", "maxntsconnections 1000",
        ]
        super().__init__(directory, configuration, prefix=prefix)


def chronyd_once(directory: Path, *directives: str) -> list[str]:
    """The chronyd command that measures once, prints the offset, and never sets a clock."""
    own = ["user root", f"pidfile {directory}/once.pid", "cmdport 0", "bindcmdaddress /"]
    return ["chronyd", "-x", "-Q", "-t", "10", "-f", "/dev/null", *own, *directives]


class Newcomer(Process):
    """The plain aioquic server."""

    def __init__(self, certificate: Path, key: Path, *, host: str = HOST, prefix: Sequence[str] = ()) -> None:
        self.target = Target(host, free_port())
        module = [sys.executable, "-m", "benchmarks.compare.newcomer"]
        super().__init__([*module, "serve", host, str(self.target.port), certificate, key], prefix=prefix)

    def ready(self) -> None:
        if self.line() != "ready\n":
            raise RuntimeError("the plain aioquic server did not start")


class NodeServer(Process):
    """A server under node that prints its port in a line of JSON: TSQ on quiche, or the bare echo."""

    def __init__(self, script: Path, *arguments: str | Path, host: str = HOST, prefix: Sequence[str] = ()) -> None:
        super().__init__(["node", script, "--host", host, *arguments], prefix=prefix)
        self.target = Target(host)

    def ready(self) -> None:
        line = self.line()
        if not line.startswith("{"):
            raise RuntimeError(f"{self._command[-1]} under node did not start: {line!r}")
        self.target = Target(self.target.host, int(json.loads(line)["port"]))


def quiche(certificate: Path, key: Path, *, host: str = HOST, prefix: Sequence[str] = ()) -> NodeServer:
    """TSQ's server on Cloudflare quiche."""
    return NodeServer(QUICHE / "server.mjs", "--cert", certificate, "--key", key, host=host, prefix=prefix)


def why_no_quiche() -> str | None:
    """What is missing for `quiche`; None: nothing."""
    if not have("node"):
        return "node is not installed"
    if not (QUICHE / "node_modules").is_dir():
        return "quiche is not installed (make peers)"
    command = ["node", "--input-type=module", "-e", "import '@matrixai/quic/native/quiche.js'"]
    done = subprocess.run(command, cwd=QUICHE, capture_output=True, timeout=60, check=False)
    return None if done.returncode == 0 else "quiche cannot be loaded here"


def environment(directory: Path) -> dict[str, str]:
    """An environment in which Python caches byte code, as for an installed package."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(directory / "byte code")}


def have(*programs: str) -> bool:
    """Whether all these programs are installed."""
    return all(shutil.which(program) for program in programs)


def free_port(kind: socket.SocketKind = socket.SOCK_DGRAM) -> int:
    """A free port on loopback."""
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
