"""Real processes give up their privileges; what is left is read from /proc by this one."""

import os
import pwd
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.support.uml import Guest, guest, missing

root = pytest.mark.skipif(os.geteuid() != 0, reason="only root has privileges to give up")
CHILD = """
import subprocess, sys
from tsq.host.privileges import drop_privileges
drop_privileges({arguments})
print(open("/proc/self/status").read())
print("exec")
sys.stdout.flush()
subprocess.run(["cat", "/proc/self/status"])
"""


def status(text: str) -> dict[str, str]:
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def after(arguments: str) -> tuple[dict[str, str], dict[str, str]]:
    """/proc/self/status of a process that gave up its privileges, and of a program that it started."""
    done = subprocess.run(
        [sys.executable, "-c", CHILD.format(arguments=arguments)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    own, _, child = done.stdout.partition("exec\n")
    return status(own), status(child)


def sets(found: dict[str, str], *names: str) -> set[int]:
    return {int(found[name], 16) for name in names}


@root
def test_root_keeps_nothing_but_its_name_and_neither_do_its_children():
    for found in after("keep_clock=False"):
        assert sets(found, "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") == {0}
        assert found["NoNewPrivs"] == "1"
        assert found["Uid"].split() == ["0"] * 4
        assert found["Groups"].split() == []


@root
def test_root_becomes_another_user_with_its_groups():
    entry = pwd.getpwnam("nobody")
    for found in after("keep_clock=True, user='nobody', groups=['adm']"):
        assert found["Uid"].split() == [str(entry.pw_uid)] * 4
        assert found["Gid"].split() == [str(entry.pw_gid)] * 4
        assert found["Groups"].split() == ["4", str(entry.pw_gid)]
        # No test may have CAP_SYS_TIME: what is not there cannot be kept.
        assert sets(found, "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") == {0}
        assert found["NoNewPrivs"] == "1"


@root
def test_root_keeps_the_groups_that_are_named():
    found, _ = after("keep_clock=False, groups=['adm']")
    assert found["Groups"].split() == ["4"]
    assert found["Uid"].split()[1] == "0"


@root
@pytest.mark.parametrize("arguments", ["user='no-such-user'", "groups=['no-such-group']"])
def test_a_user_or_group_that_does_not_exist_is_an_error(arguments):
    code = f"""
from tsq.errors import ConfigError
from tsq.host.privileges import drop_privileges
try:
    drop_privileges(keep_clock=False, {arguments})
except ConfigError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert re.fullmatch(r"no (user|group) 'no-such-\1' on this machine \(expected the name of a \1\)\n", done.stdout)


@root
def test_a_user_without_privileges_gives_up_the_rest_and_cannot_become_another():
    code = """
import os, sys
from tsq.errors import ConfigError
from tsq.host.privileges import drop_privileges
os.setresgid(65534, 65534, 65534)
os.setresuid(65534, 65534, 65534)
try:
    drop_privileges(keep_clock=True, user="root")
    print("became root")
except ConfigError as error:
    print(error)
drop_privileges(keep_clock=True)
drop_privileges(keep_clock=False, user="nobody")
print(open("/proc/self/status").read())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.startswith("privileges cannot be given up: Operation not permitted: start as root, or without a user\n")
    found = status(done.stdout)
    assert sets(found, "CapPrm", "CapEff", "CapAmb") == {0}
    assert found["NoNewPrivs"] == "1"


# ------------------------------------------------------------------- in a guest, where a process may have the capability


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Iterator[Guest]:
    if missing():
        pytest.skip(missing())
    with guest(tmp_path_factory.mktemp("privileges")) as it:
        yield it


# Imports come first: another user may not read where this Python is.
BEFORE = """
from tsq.errors import NotPermitted
from tsq.host.clock import SystemClock
SystemClock().may_set
"""
SET = """
clock = SystemClock()
print("may set:", clock.may_set)
try:
    clock.steer(1e-6, max_error=1, estimated_error=1, synchronized=False)
    print("set")
except NotPermitted:
    print("refused")
"""


@pytest.mark.parametrize("user", ["", "nobody"])
def test_what_is_kept_is_the_clock_alone(machine, user):
    out = machine.python(BEFORE + CHILD.format(arguments=f"keep_clock=True, user={user!r}") + SET)
    own, _, child = out.partition("exec\n")
    assert sets(status(own), "CapPrm", "CapEff", "CapBnd") == {1 << 25}
    assert sets(status(own), "CapInh", "CapAmb") == {0}
    # Root's programs have what the bounding set has; those of others have nothing.
    assert sets(status(child), "CapEff") == ({0} if user else {1 << 25})
    assert out.endswith("may set: True\nset\n")


def test_without_the_clock_the_kernel_refuses(machine):
    out = machine.python(BEFORE + CHILD.format(arguments="keep_clock=False") + SET)
    assert sets(status(out.partition("exec\n")[0]), "CapPrm", "CapEff", "CapBnd") == {0}
    assert out.endswith("may set: False\nrefused\n")


def test_a_user_who_was_started_with_the_capability_keeps_it(machine):
    """As systemd's AmbientCapabilities= gives it."""
    code = BEFORE + CHILD.format(arguments="keep_clock=True") + SET
    done = machine.run(
        "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--inh-caps", "+sys_time",
        "--ambient-caps", "+sys_time",
        sys.executable, "-c", code,
    )
    assert done.status == 0, done.err
    assert sets(status(done.out.partition("exec\n")[0]), "CapPrm", "CapEff") == {1 << 25}
    assert sets(status(done.out.partition("exec\n")[0]), "CapAmb", "CapInh") == {0}
    assert done.out.endswith("may set: True\nset\n")
