"""A fleet in network namespaces: clients behind a NAT, a balancer, three servers. All of it ends with the `with`.

    clients 10.9.0.2 -- 10.9.0.1 NAT 198.51.100.10 -- 198.51.100.1 balancer 192.0.2.1 -- servers 192.0.2.11 to 13

The balancer is nftables, which hashes addresses and ports, or reads server IDs in clear; or a relay that reads QUIC-LB
connection IDs, encrypted ones too. `story` lets things
happen to the fleet, and counts what its clients lose.
"""

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from tests.support.namespaces import inside, ip, need_root_and, run, set_kernel
from tests.support.processes import BIN
from tsq.quic.selfsigned import CertificateFiles

ROOT = Path(__file__).resolve().parent.parent.parent
SERVERS = 3
FRONT, BACK = "198.51.100.1", "192.0.2.1"
PORT = 443
OUTSIDE = ("198.51.100.10", "198.51.100.20")
_INSIDE, _GATEWAY = "10.9.0.2", "10.9.0.1"
_SERVER_PORT = 4433
_PATIENCE = 120.0
_NOTICED = 1.5


def server_address(number: int) -> str:
    return f"192.0.2.{11 + number}"


def server_id(number: int) -> str:
    return f"0a0b{number:02x}"


@dataclass(frozen=True)
class Network:
    """The names of four namespaces."""

    clients: str
    nat: str
    balancer: str
    servers: str

    def move(self, old: str, new: str) -> None:
        """Give the clients' NAT another address: it forgets all ports, and clients' datagrams come from the new address."""
        ip("-n", self.nat, "address", "delete", f"{old}/24", "dev", "front")
        ip("-n", self.nat, "address", "add", f"{new}/24", "dev", "front")
        ip("-n", self.nat, "route", "add", "default", "via", FRONT)


@contextmanager
def network() -> Iterator[Network]:
    need_root_and("nft")
    tag = secrets.token_hex(3)
    made = Network(*(f"tsq-{tag}-{name}" for name in ("clients", "nat", "balancer", "servers")))
    links = [
        (made.clients, "home", [_INSIDE], made.nat, "home", [_GATEWAY]),
        (made.nat, "front", [OUTSIDE[0]], made.balancer, "front", [FRONT]),
        (made.balancer, "back", [BACK], made.servers, "back", [server_address(number) for number in range(SERVERS)]),
    ]
    with ExitStack() as cleanup:
        for name in (made.clients, made.nat, made.balancer, made.servers):
            ip("netns", "add", name)
            cleanup.callback(ip, "netns", "delete", name)
            ip("-n", name, "link", "set", "lo", "up")
        for one, device, addresses, other, other_device, other_addresses in links:
            ip("link", "add", device, "netns", one, "type", "veth", "peer", "name", other_device, "netns", other)
            for name, there, own in ((one, device, addresses), (other, other_device, other_addresses)):
                for address in own:
                    ip("-n", name, "address", "add", f"{address}/24", "dev", there)
                ip("-n", name, "link", "set", there, "up")
        ip("-n", made.clients, "route", "add", "default", "via", _GATEWAY)
        ip("-n", made.nat, "route", "add", "default", "via", FRONT)
        ip("-n", made.servers, "route", "add", "default", "via", BACK)
        for name in (made.nat, made.balancer):
            set_kernel(name, ipv4__ip_forward=1)
        rules(made.nat, "table ip nat { chain out { type nat hook postrouting priority srcnat; oifname front masquerade; }; }")
        yield made


def rules(namespace: str, text: str) -> None:
    """Load nftables rules."""
    run(*inside(namespace), "nft", text)


class Balancer(Protocol):
    """What the story needs of a balancer: `use` says which servers take new clients."""

    options: list[list[str]]

    def use(self, servers: list[int]) -> None: ...


class ByAddress:
    """nftables: a new flow goes to a server by a hash of the client's address and port, and stays there."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.options: list[list[str]] = [[] for _ in range(SERVERS)]
        rules(network.balancer, "table ip balance { chain choose { type nat hook prerouting priority dstnat; }; }")
        self.use(list(range(SERVERS)))

    def use(self, servers: list[int]) -> None:
        chosen = ", ".join(f"{place} : {server_address(number)}" for place, number in enumerate(servers))
        # One transaction: no flow sees the chain empty.
        rules(self._network.balancer, (
            f"flush chain ip balance choose; add rule ip balance choose ip daddr {FRONT} udp dport {PORT} "
            f"dnat ip to jhash ip saddr . udp sport mod {len(servers)} map {{ {chosen} }} : {_SERVER_PORT}"
        ))


class ByServerId:
    """nftables: a new flow goes to the server whose ID stands in clear in its first packet, else to one by a hash."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self.options = [[f"--quic-lb=0:{server_id(number)}"] for number in range(SERVERS)]
        named = ", ".join(f"0x{server_id(number)} : {server_address(number)}" for number in range(SERVERS))
        rules(network.balancer, (
            "table ip balance { chain hashed { }; chain choose { type nat hook prerouting priority dstnat; }; }; "
            f"add rule ip balance choose ip daddr {FRONT} udp dport {PORT} @th,64,1 0 @th,72,3 0 "
            f"dnat ip to @th,80,24 map {{ {named} }} : {_SERVER_PORT}; "
            f"add rule ip balance choose ip daddr {FRONT} udp dport {PORT} goto hashed"
        ))
        self.use(list(range(SERVERS)))

    def use(self, servers: list[int]) -> None:
        chosen = ", ".join(f"{place} : {server_address(number)}" for place, number in enumerate(servers))
        rules(self._network.balancer, (
            "flush chain ip balance hashed; add rule ip balance hashed "
            f"dnat ip to jhash ip saddr . udp sport mod {len(servers)} map {{ {chosen} }} : {_SERVER_PORT}"
        ))


class ByConnectionId:
    """The relay that reads QUIC-LB connection IDs."""

    def __init__(self, network: Network, directory: Path) -> None:
        key = directory / "quic-lb"
        key.write_text(os.urandom(16).hex())
        key.chmod(0o600)
        self.options = [[f"--quic-lb=0:{server_id(number)}", f"--quic-lb-key={key}"] for number in range(SERVERS)]
        servers = [f"{server_id(number)}={server_address(number)}:{_SERVER_PORT}" for number in range(SERVERS)]
        self._program = Program(network.balancer, "tests.support.quic_lb_relay", f"{FRONT}:{PORT}", "0:3", str(key), *servers)

    def use(self, servers: list[int]) -> None:
        self._program.ask("up " + " ".join(server_id(number) for number in servers))

    def __enter__(self) -> Self:
        self._program.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._program.__exit__(kind, error, trace)


class Program:
    """A module that runs in a namespace, and answers each line with a line."""

    def __init__(self, namespace: str, module: str, *arguments: str) -> None:
        self._command = [*inside(namespace), sys.executable, "-m", module, *arguments]

    def answer(self) -> str:
        line = self._process.stdout.readline()
        assert line, "the program ended"
        return line

    def ask(self, line: str) -> str:
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self.answer()

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        try:
            self.first = self.answer()
        except BaseException:
            self._process.kill()
            self._process.wait()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._process.stdin.close()
        try:
            self._process.wait(30)
        finally:
            self._process.kill()
            self._process.wait()
            self._process.stdout.close()


class Servers:
    """The three servers, with one file of secrets."""

    def __init__(
        self, network: Network, certificates: CertificateFiles, directory: Path, options: list[list[str]], limit: int, drain: float
    ) -> None:
        secret = directory / "secrets"
        secret.write_text(os.urandom(32).hex())
        secret.chmod(0o600)
        self._options, self._network, self._directory = options, network, directory
        self._shared = [
            "--cert", certificates.certificate, "--key", certificates.key, "--secret-file", secret, "--local-stratum", "1",
            "--drain", str(drain), "--max-connections", str(2 * limit), "--log-level", "warning", "--workers", "1",
        ]  # fmt: skip
        self._running: dict[int, subprocess.Popen] = {}

    def start(self, number: int) -> None:
        self._begin(number)
        self._ready(number)

    def _begin(self, number: int) -> None:
        command = [
            *inside(self._network.servers), BIN / "tsq-server", "--listen", f"{server_address(number)}:{_SERVER_PORT}",
            *self._shared, *self._options[number],
        ]  # fmt: skip
        with (self._directory / f"server-{number}.log").open("ab") as log:
            self._running[number] = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, stderr=log)

    def _ready(self, number: int) -> None:
        assert b"listening" in self._running[number].stdout.readline()

    def kill(self, number: int) -> None:
        self._running[number].kill()
        self._end(number)

    def drain(self, number: int) -> None:
        """Begin to drain."""
        self._running[number].send_signal(signal.SIGTERM)

    def drained(self, number: int) -> None:
        """Wait until it has ended, as it should."""
        assert self._end(number) == 0

    def _end(self, number: int) -> int:
        server = self._running.pop(number)
        status = server.wait(_PATIENCE)
        server.stdout.close()
        return status

    def __enter__(self) -> Self:
        try:
            for number in range(SERVERS):
                self._begin(number)
            for number in range(SERVERS):
                self._ready(number)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        for number in list(self._running):
            self.kill(number)


@dataclass
class Chapter:
    """What happened, and what the clients counted meanwhile."""

    name: str
    counts: dict[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> int:
        return self.counts.get(name, 0)


def story(
    directory: Path, certificates: CertificateFiles, *, by: str, clients: int, interval: float, pause: float, drain: float
) -> list[Chapter]:
    """Move the clients; roll one server to a new process; kill one, and start it again; drain one.

    by: `address`, `server ID` (in clear) or `connection ID` (encrypted). In seconds: interval, between polls of a client; pause,
    how long each chapter lasts at least; drain, how long a server that goes serves, and parts from its clients in the second half.
    """
    chapters: list[Chapter] = []
    with ExitStack() as stack:
        net = stack.enter_context(network())
        if by == "address":
            balancer: Balancer = ByAddress(net)
        elif by == "server ID":
            balancer = ByServerId(net)
        else:
            balancer = stack.enter_context(ByConnectionId(net, directory))
        servers = stack.enter_context(Servers(net, certificates, directory, balancer.options, clients, drain))
        target, authority = f"{FRONT}:{PORT}", str(certificates.authority)
        many = stack.enter_context(
            Program(net.clients, "tests.support.many_clients", target, authority, str(clients), str(interval))
        )
        chapters.append(Chapter("all connect", json.loads(many.first)))

        def chapter(name: str) -> None:
            # Long enough that every client has polled.
            time.sleep(pause)
            chapters.append(Chapter(name, json.loads(many.ask(""))))

        chapter("nothing happens")
        net.move(*OUTSIDE)
        # A client notices after half a second of silence that nothing comes any more.
        time.sleep(_NOTICED)
        chapter("all clients get another address")
        servers.drain(2)
        balancer.use([0, 1])
        servers.drained(2)
        servers.start(2)
        balancer.use([0, 1, 2])
        chapter("a server is rolled to a new process")
        servers.kill(0)
        balancer.use([1, 2])
        time.sleep(_NOTICED)
        chapter("a server is killed")
        servers.start(0)
        balancer.use([0, 1, 2])
        servers.drain(1)
        balancer.use([0, 2])
        servers.drained(1)
        chapter("a server is drained")
    return chapters


def table(chapters: list[Chapter]) -> str:
    """The chapters as a table of text."""
    columns = ("polls", "failed", "requests", "lost", "connections")
    lines = [f"{'':40}" + "".join(f"{name:>12}" for name in columns)]
    lines += [f"{chapter.name:40}" + "".join(f"{chapter[name]:12,}" for name in columns) for chapter in chapters]
    return "\n".join(lines)
