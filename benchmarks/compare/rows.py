"""The rows of the comparison: what they are called, what each needs, and how its server is started.

Comes in: certificates, compiled programs, where to run (loopback, or a prefix for a namespace). Goes out: running servers, or why a
row cannot run here. It must never leave a row out silently.
"""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import streams
from benchmarks.processes import (
    HOST,
    Echo,
    Newcomer,
    NodeServer,
    NtsServer,
    Process,
    Programs,
    TsqServer,
    have,
    quiche,
    why_no_quiche,
)
from tsq.options import Target
from tsq.quic.selfsigned import CertificateFiles

ECHO, NTP, NTS = "C UDP echo", "chronyd NTP", "chronyd NTS"
STREAM, DATAGRAM, EXACT = "TSQ Stream Mode", "TSQ Datagram Mode", "TSQ Datagram Mode, exact T3"
ALONE, NEWCOMER = "TSQ through aioquic alone", "plain aioquic program"
QUICHE, NODE_ECHO = "Cloudflare quiche under node", "UDP echo under node"

WHAT = {
    ECHO: "the least work: receives and sends datagrams of 72 bytes in batches of 32, does nothing else",
    NTP: "48 bytes, in clear, not authenticated",
    NTS: "228 bytes, authenticated; keys from an NTS-KE server in the same process",
    STREAM: "tsq-server, each request a QUIC stream; served by aioquic in Python",
    DATAGRAM: "tsq-server, requests in DATAGRAM frames; served by the compiled data plane",
    EXACT: "the same, and every request asks when the answer before it left",
    ALONE: "tsq-server without its data plane",
    NEWCOMER: "what one writes from aioquic's documentation (benchmarks/compare/newcomer.py)",
    QUICHE: "a TSQ server in JavaScript on Cloudflare's QUIC library (tests/integration/quiche)",
    NODE_ECHO: "what of the row above is node's own",
}
ROWS = tuple(WHAT)


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. port: of its service; establishment: NTS-KE's."""

    process: Process
    target: Target
    establishment: int = 0


def missing() -> dict[str, str]:
    """Rows that cannot run here, and why."""
    found: dict[str, str] = {}
    if not have("cc"):
        found |= dict.fromkeys((ECHO, NTP, NTS, NODE_ECHO), "no C compiler for the load (cc)")
    if not have("chronyd"):
        found |= dict.fromkeys((NTP, NTS), "chronyd is not installed (make peers)")
    if not have("node"):
        found[NODE_ECHO] = "node is not installed"
    if (why := why_no_quiche()) is not None:
        found[QUICHE] = why
    if (why := streams.why_not()) is not None:
        found[STREAM] = f"no load: {why}"
    return found


def start(
    row: str, files: CertificateFiles, directory: Path, programs: Programs | None, *, host: str = HOST, prefix: Sequence[str] = ()
) -> Server:
    """A row's server, not entered yet; its ports are known once it is."""
    makers: Mapping[str, object] = {
        STREAM: TsqServer,
        DATAGRAM: TsqServer,
        EXACT: TsqServer,
        ALONE: TsqServer,
        NEWCOMER: Newcomer,
        QUICHE: quiche,
    }
    if row in (NTP, NTS):
        return _chronyd(files, directory, host, prefix)
    if row == ECHO:
        assert programs is not None
        return Server(Echo(programs), Target(host))
    if row == NODE_ECHO:
        return Server(NodeServer(Path(__file__).parent / "echo.mjs", host=host, prefix=prefix), Target(host))
    more = {"data_plane": False} if row == ALONE else {}
    make = makers[row]
    assert callable(make)
    return Server(make(files.certificate, files.key, host=host, prefix=prefix, **more), Target(host))


def started(server: Server) -> Server:
    """The same once it runs: with its port."""
    process = server.process
    if isinstance(process, Echo):
        return Server(process, Target(server.target.host, process.port))
    if isinstance(process, TsqServer | Newcomer | NodeServer):
        return Server(process, process.target)
    return server


def _chronyd(files: CertificateFiles, directory: Path, host: str, prefix: Sequence[str]) -> Server:
    directory.mkdir(parents=True, exist_ok=True)
    place = Path(tempfile.mkdtemp(prefix="chronyd-", dir=directory))
    server = NtsServer(place, files.certificate, files.key, host=host, prefix=prefix)
    return Server(server, Target(host, server.port), server.establishment)


def processes_of(pid: int) -> list[int]:
    """A process and what it started, such as chronyd's helper for key establishment."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").iterdir():
            found += map(int, (task / "children").read_text().split())
    return found


def pin(pid: int, core: int) -> None:
    """To one core, with what it started."""
    for one in processes_of(pid):
        os.sched_setaffinity(one, {core})
