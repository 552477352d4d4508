"""Real processes confine themselves, and then try what they should not; the filter is also run by an interpreter of its own."""

import errno
import json
import random
import signal
import struct
import subprocess
import sys
from pathlib import Path

import pytest

from tsq.host import _sandbox
from tsq.host.sandbox import Refused, call_filter

needs_landlock = pytest.mark.skipif(not _sandbox.landlock_version(), reason="this kernel has no landlock")
needs_filter = pytest.mark.skipif(not _sandbox.ARCHITECTURE, reason="no filter for this machine")
ALLOW, KILL, FAILS, ABSENT = 0x7FFF0000, 0x80000000, 0x50000 | errno.EPERM, 0x50000 | errno.ENOSYS
CHILD = """
import json, os, resource, socket, subprocess, sys, threading
from tsq.host.sandbox import Confinement, Refused, forbid_core_dumps
readable = {readable!r}
missing = Confinement([readable]).enter(Refused.{refused})
def tried(what):
    try:
        what()
    except OSError as error:
        return error.errno
    return 0
def thread():
    one = threading.Thread(target=int)
    one.start()
    one.join()
print(json.dumps({{"missing": missing, **{{name: tried(what) for name, what in {{{what}}}.items()}}}}))
"""


def confined(what: str, readable: Path, refused: str = "FAILS") -> "subprocess.CompletedProcess[str]":
    """A process that confined itself and then tried this: name -> what, in Python."""
    code = CHILD.format(readable=str(readable), refused=refused, what=what)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, cwd="/")


def outcome(what: str, readable: Path) -> dict[str, object]:
    done = confined(what, readable)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    assert found.pop("missing") == []
    return found


@needs_landlock
def test_files_can_be_read_where_the_server_needs_them_and_written_nowhere(tmp_path):
    certificate, secret = tmp_path / "tls" / "cert.pem", tmp_path / "secret"
    certificate.parent.mkdir()
    certificate.write_text("old")
    secret.write_text("private")
    found = outcome(
        f"'certificate': lambda: open({str(certificate)!r}).close(), 'another': lambda: open({str(secret)!r}).close(),"
        f"'overwrite': lambda: open({str(certificate)!r}, 'w').close(), 'new': lambda: open('/tmp/tsq-new', 'x').close(),"
        f"'names': lambda: socket.getaddrinfo('localhost', 1), 'remove': lambda: os.remove({str(secret)!r})",
        certificate,
    )
    assert found == {
        "certificate": 0, "another": errno.EACCES, "overwrite": errno.EACCES, "new": errno.EACCES, "names": 0,
        "remove": errno.EPERM,
    }
    assert certificate.read_text() == "old"


@needs_landlock
def test_a_file_that_was_replaced_by_another_of_its_name_can_be_read(tmp_path):
    certificate, newer = tmp_path / "tls" / "cert.pem", tmp_path / "newer"
    certificate.parent.mkdir()
    certificate.write_text("old")
    newer.write_text("new")
    code = CHILD.format(readable=str(certificate), refused="FAILS", what="")
    code += f"print('confined', flush=True)\nsys.stdin.readline()\nprint(open({str(certificate)!r}).read())"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd="/"
    ) as child:
        assert child.stdout is not None
        while child.stdout.readline() != "confined\n":
            pass
        newer.replace(certificate)
        out, _ = child.communicate("go on\n", timeout=60)
    assert out == "new\n"


@needs_filter
def test_no_program_is_started_and_no_other_kind_of_socket_is_opened(tmp_path):
    found = outcome(
        "'program': lambda: subprocess.run(['true']), 'fork': os.fork, 'packet': lambda: socket.socket(socket.AF_PACKET),"
        "'udp': lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).close(), 'thread': thread,"
        "'root': lambda: os.setuid(0)",
        tmp_path / "none",
    )
    refused = dict.fromkeys(("program", "fork", "packet", "root"), errno.EPERM)
    assert found == {**refused, "udp": 0, "thread": 0}


@needs_filter
def test_a_strict_filter_ends_the_process(tmp_path):
    done = confined("'program': lambda: os.fork()", tmp_path / "none", "ENDS")
    assert done.returncode == -signal.SIGSYS
    assert done.stdout == ""


@needs_landlock
def test_no_tcp_connection_is_made(tmp_path):
    if _sandbox.landlock_version() < 4:
        pytest.skip("this kernel's landlock knows no network")
    found = outcome("'tcp': lambda: socket.create_connection(('127.0.0.1', 9))", tmp_path / "none")
    assert found == {"tcp": errno.EACCES}


def test_there_is_no_core_file():
    code = "import resource\nfrom tsq.host.sandbox import forbid_core_dumps\nforbid_core_dumps()\n"
    code += "print(resource.getrlimit(resource.RLIMIT_CORE), open('/proc/self/status').read().count('CoreDumping'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "(0, 0) 1\n", done.stderr


def run(program: bytes, number: int, architecture: int, first: int) -> int:
    """What the filter says: a small interpreter of the instructions that it uses (linux/filter.h)."""
    steps = list(struct.iter_unpack("=HBBI", program))
    data = {0: number, 4: architecture, 16: first & 0xFFFFFFFF}
    at = value = 0
    while True:
        code, yes, no, k = steps[at]
        at += 1
        if code == 0x20:
            value = data[k]
        elif code == 0x06:
            return k
        else:
            met = {0x15: value == k, 0x35: value >= k, 0x45: bool(value & k)}[code]
            at += yes if met else no


CALLS = {"read": 0, "socket": 41, "clone": 56, "clone3": 435, "futex": 202}


@pytest.mark.parametrize(
    ("number", "first", "expected"),
    [
        (0, 0, ALLOW), (202, 7, ALLOW), (59, 0, FAILS), (41, 2, ALLOW), (41, 10, ALLOW), (41, 1, ALLOW), (41, 16, ALLOW),
        (41, 17, FAILS),
        (56, 0x10000, ALLOW), (56, 0x11, FAILS), (435, 0, ABSENT), (0x40000000, 0, FAILS), (0x40000000 + 202, 0, FAILS),
    ],
)
def test_each_call_gets_its_verdict(number, first, expected):
    assert run(call_filter(CALLS, 0xC000003E, Refused.FAILS), number, 0xC000003E, first) == expected
    strict = {FAILS: KILL}.get(expected, expected)
    assert run(call_filter(CALLS, 0xC000003E, Refused.ENDS), number, 0xC000003E, first) == strict


def test_calls_of_another_architecture_end_the_process():
    assert run(call_filter(CALLS, 0xC000003E, Refused.FAILS), 0, 0x40000003, 0) == KILL


@needs_filter
def test_the_filter_allows_the_calls_of_its_list_and_no_others():
    calls = _sandbox.system_calls()
    program = call_filter(calls, _sandbox.ARCHITECTURE, Refused.FAILS)
    allowed = set(calls.values()) - {calls["clone3"]} if "clone3" in calls else set(calls.values())
    for number in random.Random(3).sample(range(600), 300):
        verdict = run(program, number, _sandbox.ARCHITECTURE, 0x10000 if number == calls["clone"] else 2)
        assert (verdict == ALLOW) == (number in allowed), number
