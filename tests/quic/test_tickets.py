"""Session tickets: each is used once; the file is private, keeps trusts apart and survives what others wrote."""

import dataclasses
import datetime
import errno
import fcntl
import json
import os
import random
import socket
import stat
import threading
from pathlib import Path

import pytest
from aioquic.tls import CipherSuite, SessionTicket

from tsq.quic.tickets import AcceptedTicket, TicketFile, TicketMemory

NOW = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
DAY = datetime.timedelta(days=1)
SOURCE = random.Random(23)
CA = "ca:0123"


def ticket(*, not_before: datetime.datetime = NOW - DAY, not_after: datetime.datetime = NOW + DAY) -> SessionTicket:
    """A ticket like a server's."""
    return SessionTicket(
        age_add=SOURCE.getrandbits(32),
        cipher_suite=CipherSuite.AES_128_GCM_SHA256,
        not_valid_after=not_after,
        not_valid_before=not_before,
        resumption_secret=SOURCE.randbytes(32),
        server_name="time.example",
        ticket=SOURCE.randbytes(64),
        max_early_data_size=0xFFFFFFFF,
        other_extensions=[(0x39, SOURCE.randbytes(40))],
    )


@pytest.fixture
def warnings() -> list[str]:
    return []


@pytest.fixture
def file(tmp_path, warnings) -> TicketFile:
    return TicketFile(str(tmp_path / "sessions"), warnings.append)


def put(path: Path | str, content: bytes) -> None:
    """A private file with this content."""
    Path(path).touch(0o600)
    Path(path).write_bytes(content)


# --------------------------------------------------------------------------------------------------- the client's memory


def test_memory_gives_each_ticket_once_the_newest_first():
    memory, first, second, third = TicketMemory(), *(AcceptedTicket(ticket(), CA) for _ in range(3))
    for accepted in (first, second, third):
        memory.keep(accepted)
    assert len(memory) == 2
    assert [memory.take(CA) for _ in range(3)] == [third, second, None]


def test_memory_keeps_trusts_apart():
    memory = TicketMemory()
    memory.keep(AcceptedTicket(ticket(), CA))
    assert memory.take("ca:4567") is None
    assert memory.take(CA) is not None


@pytest.mark.parametrize(
    "accepted",
    [
        AcceptedTicket(ticket(not_after=NOW - datetime.timedelta(seconds=1)), CA),
        AcceptedTicket(ticket(not_before=NOW + DAY), CA),
        AcceptedTicket(ticket(), CA, (NOW - DAY).timestamp()),
        AcceptedTicket(dataclasses.replace(ticket(), resumption_secret=b"short"), CA),
    ],
    ids=["over", "not yet", "the certificate is over", "unsound"],
)
def test_memory_gives_no_ticket_that_cannot_be_used(accepted):
    memory = TicketMemory()
    memory.keep(accepted)
    assert memory.take(CA) is None
    good = AcceptedTicket(ticket(), CA, (NOW + DAY).timestamp())
    memory.keep(good)
    assert memory.take(CA) == good
    assert len(memory) == 0


# ----------------------------------------------------------------------------------------------------- the client's file


def test_a_ticket_comes_back_whole_and_once(file, warnings):
    kept = ticket()
    file.save("host name", CA, kept, None, b"token")
    assert (file.take("host name", CA), file.token) == ((kept, None), b"token")
    assert (file.take("host name", CA), file.token) == ((None, None), b"")
    assert warnings == []


def test_a_new_file_is_private(file):
    file.take("host name", CA)
    assert stat.S_IMODE(Path(file.path).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o660, 0o666])
def test_a_file_that_others_can_read_or_write_is_not_used_and_keeps_its_mode(file, warnings, mode):
    path = Path(file.path)
    file.save("host name", CA, ticket(), None)
    content = path.read_bytes()
    path.chmod(mode)
    assert TicketFile(file.path, warnings.append).take("host name", CA) == (None, None)
    (warning,) = warnings
    assert f"by others (mode {mode:04o}, expected 0600); session tickets are not kept" in warning
    assert path.read_bytes() == content
    assert stat.S_IMODE(path.stat().st_mode) == mode


def test_the_mode_does_not_depend_on_the_umask(file):
    before = os.umask(0)
    try:
        file.save("host name", CA, ticket(), None)
    finally:
        os.umask(before)
    assert stat.S_IMODE(Path(file.path).stat().st_mode) == 0o600


def test_the_newest_ticket_of_a_server_is_the_one_that_is_kept(file):
    old, new = ticket(), ticket()
    file.save("host name", CA, old, None)
    file.save("host name", CA, new, None)
    assert file.take("host name", CA)[0] == new
    assert file.take("host name", CA)[0] is None


def test_servers_do_not_get_each_others_tickets(file):
    one, other = ticket(), ticket()
    file.save("one:443 one", CA, one, None)
    file.save("other:443 other", CA, other, None)
    assert file.take("third:443 third", CA)[0] is None
    assert file.take("other:443 other", CA)[0] == other
    assert file.take("one:443 one", CA)[0] == one


@pytest.mark.parametrize("trust", ["system", "insecure", "ca:4567", ""])
def test_a_ticket_is_never_lent_to_another_trust(file, trust):
    file.save("host name", CA, ticket(), None)
    assert file.take("host name", trust) == (None, None)


@pytest.mark.parametrize(("not_before", "not_after"), [(NOW - 2 * DAY, NOW - DAY), (NOW + DAY, NOW + 2 * DAY)])
def test_a_ticket_out_of_its_time_is_not_used(file, not_before, not_after, warnings):
    file.save("host name", CA, ticket(not_before=not_before, not_after=not_after), None)
    assert file.take("host name", CA) == (None, None)
    assert warnings == []


def test_a_ticket_does_not_outlive_the_certificates_that_it_was_earned_with(file):
    kept = ticket()
    file.save("host name", CA, kept, (NOW - DAY).timestamp())
    assert file.take("host name", CA) == (None, None)
    expiry = (NOW + DAY).timestamp()
    file.save("host name", CA, kept, expiry)
    assert file.take("host name", CA) == (kept, expiry)


def test_the_file_is_bounded_and_the_oldest_go_first(file, monkeypatch):
    monkeypatch.setattr("tsq.quic.tickets._MAX_SAVED", 5)
    kept = [ticket() for _ in range(8)]
    for number, item in enumerate(kept):
        file.save(f"host {number}", CA, item, None)
    assert len(json.loads(Path(file.path).read_text())["sessions"]) == 5
    assert [file.take(f"host {number}", CA)[0] for number in range(8)] == [None, None, None, *kept[3:]]


@pytest.mark.parametrize(
    "rest",
    [
        b"", b":", b": 1}", b': 1, "sessions": []}', b': 2, "sessions": {}}', b': 1, "sessions": {"host name', b": \xff\xfe\x00",
        b"\x00" * 100, b": " + b"[" * 100_000,
    ],
    ids=lambda rest: repr(rest[:24]),
)
def test_a_damaged_file_is_reported_ignored_and_written_anew(file, warnings, rest):
    put(file.path, b'{"tsq_sessions"' + rest)
    assert file.take("host name", CA) == (None, None)
    assert warnings == [f"{file.path}: a damaged session file; starting it anew"]
    kept = ticket()
    file.save("host name", CA, kept, None)
    assert file.take("host name", CA)[0] == kept


@pytest.mark.parametrize("content", [b"\n", b"{}", b"[]", b'{"name": "mine"}', b"notes of mine", b"\xff\xfe\x00", bytes(100)])
def test_a_file_that_is_something_else_is_reported_once_and_left_as_it_is(file, warnings, content):
    path = Path(file.path)
    put(path, content)
    assert file.take("host name", CA) == (None, None)
    file.save("host name", CA, ticket(), None)
    advice = "give a file of its own, or one that does not exist"
    assert warnings == [f"{path} is not a session file: {advice}; session tickets are not kept"]
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    "change",
    [
        {"ticket": "not base64!"}, {"ticket": None}, {"secret": 5}, {"cipher_suite": 1}, {"cipher_suite": "x"}, {"age_add": None},
        {"not_after": "soon"}, {"not_after": None}, {"not_after": 1e300}, {"not_after": float("inf")}, {"not_before": float("nan")},
        {"certificates_expire": float("nan")}, {"certificates_expire": float("inf")}, {"ticket": ""}, {"ticket": "AAAA" * 700},
        {"secret": ""}, {"secret": "AAAA"}, {"cipher_suite": 0xFF}, {"cipher_suite": 0x1302}, {"age_add": -1}, {"age_add": 1 << 32},
        {"max_early_data": -1}, {"max_early_data": 1 << 32}, {"max_early_data": "x"}, {"extensions": [[57, "AAAA" * 700]]},
        {"extensions": [[-1, "AAAA"]]}, {"certificates_expire": "later"},
        {"extensions": 5}, {"extensions": [[1]]}, {"extensions": [["x", "AAAA"]]},
    ],
    ids=str,
)
def test_an_entry_with_a_field_that_cannot_be_is_reported_and_dropped(file, warnings, change):
    file.save("host name", CA, ticket(), None)
    content = json.loads(Path(file.path).read_text())
    content["sessions"]["host name"].update(change)
    Path(file.path).write_text(json.dumps(content))
    assert file.take("host name", CA) == (None, None)
    assert len(warnings) == 1
    assert warnings[0].startswith(f"{file.path}: the ticket for host name is unreadable (")
    assert file.take("host name", CA) == (None, None)
    assert len(warnings) == 1


def test_a_ticket_that_fits_no_client_hello_is_not_kept(file, warnings):
    """A server may send tickets of 64 KiB (RFC 8446 §4.6.1)."""
    file.save("host name", CA, dataclasses.replace(ticket(), ticket=bytes(2049)), None)
    assert file.take("host name", CA) == (None, None)
    found = "the ticket that the server sent has 2049 bytes (expected 1 to 2048)"
    assert warnings == [f"{file.path}: {found}; it is not kept"]
    file.save("host name", CA, dataclasses.replace(ticket(), ticket=bytes(2048)), None)
    assert file.take("host name", CA)[0] is not None


@pytest.mark.parametrize("name", ["ticket", "secret", "cipher_suite", "age_add", "not_before", "not_after", "certificates_expire",
                                  "extensions", "server_name", "max_early_data"])
def test_an_entry_that_lacks_a_field_is_reported_and_dropped(file, warnings, name):
    file.save("host name", CA, ticket(), None)
    content = json.loads(Path(file.path).read_text())
    del content["sessions"]["host name"][name]
    Path(file.path).write_text(json.dumps(content))
    assert file.take("host name", CA) == (None, None)
    assert len(warnings) == 1


@pytest.mark.parametrize("entry", [None, 5, "text", []])
def test_an_entry_that_is_none_is_dropped(file, entry):
    put(file.path, json.dumps({"tsq_sessions": 1, "sessions": {"host name": entry}}).encode())
    assert file.take("host name", CA) == (None, None)
    assert json.loads(Path(file.path).read_text())["sessions"] == {}


OBSTACLES = {
    "missing directory": "No such file or directory",
    "directory": "it is a directory, not a regular file",
    "link": "it is a symbolic link, not a regular file",
    "hard link": "it has 2 hard links: another name of it may be somebody else's file",
    "FIFO": "it is a FIFO, not a regular file",
    "socket": "it is a socket, not a regular file",
}


def obstructed(directory: Path, obstacle: str) -> Path:
    """A path with this in the place of a session file; `directory / "victim"` is another's file."""
    path, victim = directory / "sessions", directory / "victim"
    victim.write_text("precious")
    victim.chmod(0o640)
    if obstacle == "missing directory":
        return directory / "none" / "sessions"
    if obstacle == "directory":
        path.mkdir()
    elif obstacle == "link":
        path.symlink_to(victim)
    elif obstacle == "hard link":
        os.link(victim, path)
    elif obstacle == "FIFO":
        os.mkfifo(path, 0o666)
    else:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(str(path))
    return path


@pytest.mark.parametrize(("obstacle", "words"), OBSTACLES.items(), ids=OBSTACLES)
def test_what_is_no_file_of_its_own_is_reported_once_and_left_as_it_is(tmp_path, warnings, obstacle, words):
    path = obstructed(tmp_path, obstacle)
    before = path.lstat().st_mode if os.path.lexists(path) else None
    file = TicketFile(str(path), warnings.append)
    assert not file.usable()
    assert file.take("host name", CA) == (None, None)
    file.save("host name", CA, ticket(), None)
    assert warnings == [f"session file {path}: {words}; session tickets are not kept"]
    assert (path.lstat().st_mode if os.path.lexists(path) else None) == before
    assert (tmp_path / "victim").read_text() == "precious"
    assert stat.S_IMODE((tmp_path / "victim").stat().st_mode) == 0o640


def test_a_lock_that_another_process_holds_costs_the_tickets_and_no_more(file, warnings, monkeypatch):
    file.save("host name", CA, ticket(), None)
    content = Path(file.path).read_bytes()
    with open(file.path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert file.take("host name", CA) == (None, None)
        # It waited once: what follows does not wait again.
        monkeypatch.setattr(fcntl, "flock", None)
        file.save("host name", CA, ticket(), None)
    assert warnings == [f"session file {file.path}: another process holds its lock; session tickets are not kept"]
    assert Path(file.path).read_bytes() == content


@pytest.mark.parametrize("call", ["write", "replace", "open"])
def test_a_disk_that_fails_leaves_the_old_file_whole_and_gives_no_ticket(file, warnings, monkeypatch, call):
    """A ticket that stays in the file may be used by another client: it is not handed out."""
    file.save("host name", CA, ticket(), None)
    content = Path(file.path).read_bytes()
    real = os.open

    def full(*arguments, **_):
        if call == "open" and not arguments[1] & os.O_EXCL:
            return real(*arguments)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    assert file.take("host name", CA) == (None, None)
    monkeypatch.undo()
    assert warnings == [f"session file {file.path}: No space left on device; session tickets are not kept"]
    assert Path(file.path).read_bytes() == content
    assert os.listdir(Path(file.path).parent) == ["sessions"]


def test_a_file_is_never_written_in_place(file):
    file.save("host name", CA, ticket(), None)
    with open(file.path, "rb") as old:
        content = old.read()
        file.save("host name", CA, ticket(), None)
        old.seek(0)
        assert old.read() == content


def in_threads(count: int, work) -> None:
    """Run work(number) in so many threads that begin together."""
    start = threading.Barrier(count)

    def run(number: int) -> None:
        start.wait(60)
        work(number)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)


def test_of_many_takers_at_once_one_gets_the_ticket(file, warnings):
    kept = ticket()
    file.save("host name", CA, kept, None)
    taken: list[SessionTicket | None] = []
    in_threads(8, lambda _: taken.append(TicketFile(file.path, warnings.append).take("host name", CA)[0]))
    assert len(taken) == 8
    assert [item for item in taken if item is not None] == [kept]
    assert warnings == []


def test_of_many_savers_at_once_none_is_lost(file, warnings):
    kept = [ticket() for _ in range(8)]
    in_threads(8, lambda number: TicketFile(file.path, warnings.append).save(f"host {number}", CA, kept[number], None))
    assert [file.take(f"host {number}", CA)[0] for number in range(8)] == kept
    assert warnings == []
