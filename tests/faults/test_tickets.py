"""Case 67: a ticket that is no longer good is a full handshake and nothing worse, between real processes."""

import asyncio
import base64
import contextlib
import datetime
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import aioquic.tls
import pytest

from tests.cli.peers import DAY, NOW
from tests.integration.peers import good_samples, run_json, server_arguments
from tests.support.ports import free_port
from tests.support.processes import ServerProcess
from tests.support.threads import ServerThread
from tsq import ClientOptions, HostResult, Trust, aquery, aquery_all, connect, query
from tsq.errors import ConnectionLost

HOUR = 3600


class Runs:
    """Runs of tsq-client with one session file."""

    def __init__(self, ca: object, file: Path) -> None:
        self.file = file
        self._ca = ca

    def ask(self, target: object) -> bool:
        """Ask; whether it was 0-RTT. Every run must be a good one, that says nothing on standard error and leaves a new ticket."""
        before = self.entry()
        done, [host] = run_json(target, "--ca", self._ca, "--interval", 0.01, "--session-file", self.file)
        assert (done.returncode, done.stderr, host["notices"], host["error"]) == (0, "", [], None)
        assert len(good_samples(host)) == len(host["samples"]) == 3
        after = self.entry()
        assert after is not None, "a ticket for the next time"
        assert before is None or after["ticket"] != before["ticket"]
        assert after["not_after"] > NOW.timestamp()
        return host["zero_rtt"]

    def entry(self) -> dict | None:
        """The one session in the file."""
        if not self.file.exists():
            return None
        sessions = json.loads(self.file.read_text())["sessions"]
        assert len(sessions) <= 1
        return next(iter(sessions.values()), None)

    def change(self, **fields: float) -> None:
        content = json.loads(self.file.read_text())
        for entry in content["sessions"].values():
            entry.update(fields)
        self.file.write_text(json.dumps(content))


@pytest.fixture
def runs(certificates, tmp_path) -> Runs:
    return Runs(certificates.authority, tmp_path / "sessions")


def ago(hours: int) -> float:
    return NOW.timestamp() - hours * HOUR


Spoil = Callable[[Runs], None]
SPOILED: dict[str, Spoil] = {
    "its lifetime is over": lambda runs: runs.change(not_before=ago(48), not_after=ago(24)),
    "its lifetime was over a moment ago": lambda runs: runs.change(not_after=ago(0) - 1),
    "its lifetime has not begun": lambda runs: runs.change(not_before=ago(-24), not_after=ago(-48)),
    "the certificate that it was earned with has expired": lambda runs: runs.change(certificates_expire=ago(1)),
}


@pytest.mark.parametrize("spoil", SPOILED.values(), ids=SPOILED)
def test_67_a_ticket_that_the_client_knows_to_be_over_is_a_full_handshake(server_process, runs, spoil):
    assert [runs.ask(server_process.target) for _ in range(2)] == [False, True]
    spoil(runs)
    assert [runs.ask(server_process.target) for _ in range(2)] == [False, True]
    server_process.stop()
    assert "handshakes: full: 2" in server_process.errors
    assert "handshakes: resumed: 2" in server_process.errors


def test_67_the_same_ticket_with_its_own_times_would_have_been_taken(server_process, runs):
    """The test above can fail: it is the changed times alone that make the handshake a full one."""
    assert runs.ask(server_process.target) is False
    entry = runs.entry()
    runs.change(not_before=entry["not_before"], not_after=entry["not_after"])
    assert runs.ask(server_process.target) is True


def test_67_a_ticket_that_the_server_does_not_know_any_more_is_a_full_handshake(certificates, runs):
    with ServerProcess(server_arguments(certificates, f"127.0.0.1:{free_port()}")) as first:
        assert [runs.ask(first.target) for _ in range(2)] == [False, True]
    # Tickets are in the memory of the process that gave them.
    with ServerProcess(server_arguments(certificates, str(first.target))) as second:
        assert [runs.ask(second.target) for _ in range(2)] == [False, True]
        second.stop()
    assert "handshakes: full: 1" in second.errors
    assert "handshakes: resumed: 1" in second.errors


def test_67_a_ticket_that_was_used_already_is_a_full_handshake(server_process, runs, tmp_path):
    assert runs.ask(server_process.target) is False
    shutil.copy(runs.file, tmp_path / "copy")
    assert runs.ask(server_process.target) is True
    shutil.copy(tmp_path / "copy", runs.file)
    assert [runs.ask(server_process.target) for _ in range(2)] == [False, True]


UNUSABLE = {
    "another secret": {"secret": base64.b64encode(bytes(32)).decode()},
    "another cipher suite": {"cipher_suite": int(aioquic.tls.CipherSuite.CHACHA20_POLY1305_SHA256)},
    "transport parameters that cannot be read": {"extensions": [[0x39, "/////w=="]]},
    "the largest that is kept": {"ticket": base64.b64encode(bytes(2048)).decode()},
}


@pytest.mark.parametrize("how", ["blocking", "asyncio"])
@pytest.mark.parametrize("fields", UNUSABLE.values(), ids=UNUSABLE)
def test_67_a_ticket_with_which_the_handshake_fails_costs_the_ticket_and_not_the_time(server, certificates, tmp_path, fields, how):
    options = ClientOptions(
        count=1, trust=Trust(ca_file=str(certificates.authority)), session_file=str(tmp_path / "sessions"), timeout=20
    )
    file = tmp_path / "sessions"
    query(server.target, options)
    content = json.loads(file.read_text())
    for entry in content["sessions"].values():
        entry.update(fields)
    file.write_text(json.dumps(content))

    async def measured() -> HostResult:
        async with connect(server.target, options) as client:
            return await client.measure(count=1)

    result = query(server.target, options) if how == "blocking" else asyncio.run(measured())
    assert [sample.valid for sample in result.samples] == [True]
    refused = [notice for notice in result.notices if notice.startswith("the session ticket is good for nothing (")]
    assert len(refused) == (fields is not UNUSABLE["the largest that is kept"])
    assert query(server.target, options).zero_rtt


def test_a_full_server_is_no_fault_of_the_ticket(certificates, tmp_path):
    trust, file = Trust(ca_file=str(certificates.authority)), tmp_path / "sessions"
    options = ClientOptions(count=1, trust=trust, session_file=str(file), timeout=20)

    async def while_others_are_served(server: ServerProcess) -> HostResult:
        async with connect(server.target, ClientOptions(trust=trust)), contextlib.AsyncExitStack() as others:
            await aquery(server.target, options)
            assert json.loads(file.read_text())["sessions"]
            while True:
                # The connection that gave the ticket may have its place for a while after its end.
                with contextlib.suppress(ConnectionLost):
                    await others.enter_async_context(connect(server.target, ClientOptions(trust=trust)))
                    break
            [result] = await aquery_all([server.target], options)
            return result

    with ServerProcess([*server_arguments(certificates), "--max-connections", "2"]) as server:
        result = asyncio.run(while_others_are_served(server))
        assert server.stop() == 0
    assert "the server is full" in str(result.error)
    assert not json.loads(file.read_text())["sessions"]
    assert result.notices == ()


class Days:
    """The clock by which TLS counts days, ahead of this machine's."""

    def __init__(self, monkeypatch) -> None:
        self.ahead = datetime.timedelta()
        monkeypatch.setattr(aioquic.tls, "utcnow", lambda: datetime.datetime.now(datetime.UTC) + self.ahead)


def test_67_days_later_by_the_servers_clock_a_ticket_is_a_full_handshake(certificates, runs, monkeypatch):
    """The client is another process, to which the ticket seems good: its clock is right, or stands still."""
    days = Days(monkeypatch)
    with ServerThread(["127.0.0.1:0"], certificates) as server:
        assert [runs.ask(server.target) for _ in range(2)] == [False, True]
        given = runs.entry()
        days.ahead = datetime.timedelta(seconds=given["not_after"] - given["not_before"] + 60)
        assert [runs.ask(server.target) for _ in range(2)] == [False, True]
        assert server.server.counters.get("handshakes", "full") == 2
        assert server.server.counters.get("handshakes", "resumed") == 2


def test_67_days_later_by_the_clients_clock_a_ticket_is_a_full_handshake(server_process, certificates, tmp_path, monkeypatch):
    days = Days(monkeypatch)
    file = tmp_path / "sessions"
    trust = Trust(ca_file=str(certificates.authority))
    options = ClientOptions(trust=trust, interval=0.0, session_file=str(file))

    def early() -> bool:
        result = query(str(server_process.target), options)
        assert (result.good, result.notices) == (3, ())
        return result.zero_rtt

    assert [early(), early()] == [False, True]
    (entry,) = json.loads(file.read_text())["sessions"].values()
    lifetime = datetime.timedelta(seconds=entry["not_after"] - entry["not_before"])
    assert lifetime <= 7 * DAY, "RFC 8446 §4.6.1"
    days.ahead = lifetime - datetime.timedelta(minutes=1)
    assert early() is True
    days.ahead += lifetime + datetime.timedelta(minutes=1)
    assert [early(), early()] == [False, True]
