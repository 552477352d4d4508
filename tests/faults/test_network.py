"""Cases 51 and 61: networks that carry no UDP, and names whose addresses change, in namespaces of the tests' own.

    asking                               serving
    192.0.2.1    ---------------------   192.0.2.254, router to the rest
    2001:db8:1::1                        198.51.100.1, 198.51.100.2
    names: 127.0.0.1 port 53             2001:db8:2::1, 2001:db8:2::2

What neither of them has is silent, refused or rejected on the way; each in its own way, below.
"""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.peers import ReportingServer, good_samples, process, read_until, server_arguments
from tests.support.namespaces import NotPossibleError, Pair, etc, inside, ip, need_root_and, pair, run, set_kernel
from tests.support.processes import BIN

ROOT = Path(__file__).parents[2]
PORT = 443
V4, V4_TOO = "198.51.100.1", "198.51.100.2"
V6, V6_TOO = "2001:db8:2::1", "2001:db8:2::2"
# A process that is still there by then waits for something that never comes.
HANG = 60
HOURS = 3600
HOWS = ["query", "query_all", "connect"]

SILENCE = "no answer to the QUIC handshake in 0.3 s: is the server up, and does a firewall block UDP to this port?"
REFUSED = "nothing listens on this UDP port (ICMP port unreachable): is the server running"
# How nothing comes back from an address: what makes it so, what is said of it.
SILENT = {
    "no such machine on the link": "192.0.2.99",
    "no such machine on the link, IPv6": "2001:db8:1::99",
    "dropped on the way": "203.0.113.1",
    "dropped on the way, IPv6": "2001:db8:3::1",
    # Linux keeps what ICMP says of a host or a network from a UDP socket: it may be over soon.
    "unreachable behind the router": "203.0.113.3",
    "unreachable behind the router, IPv6": "2001:db8:3::3",
}
AT_ONCE = {
    "nothing listens": (V4_TOO, "NothingListens", REFUSED),
    "nothing listens, IPv6": (V6_TOO, "NothingListens", REFUSED),
    "a firewall on the way rejects it": ("203.0.113.2", "Unreachable", "No route to host: check routes and firewalls"),
    "a firewall on the way rejects it, IPv6": ("2001:db8:3::2", "Unreachable", "Permission denied: check routes and firewalls"),
    "a firewall here drops it": ("203.0.113.132", "Unreachable", "Operation not permitted: check routes and firewalls"),
    "a firewall here drops it, IPv6": ("2001:db8:3::132", "Unreachable", "Operation not permitted: check routes and firewalls"),
    "a blackhole route": ("203.0.113.129", "Unreachable", "this machine has no route to it: is there a blackhole route to it"),
    "a blackhole route, IPv6": ("2001:db8:3::129", "Unreachable", "this machine has no route to it: is there a blackhole route"),
    "a prohibit route": ("203.0.113.130", "Unreachable", "Permission denied: check routes and firewalls"),
    "a prohibit route, IPv6": ("2001:db8:3::130", "Unreachable", "Permission denied: check routes and firewalls"),
    "an unreachable route": ("203.0.113.131", "Unreachable", "No route to host: check routes and firewalls"),
    "an unreachable route, IPv6": ("2001:db8:3::131", "Unreachable", "No route to host: check routes and firewalls"),
    "no route": ("203.0.113.133", "Unreachable", "Network is unreachable: check routes and firewalls"),
}
NAMES_CONFIGURATION = {
    "hosts": "127.0.0.1 localhost\n",
    "resolv_conf": "nameserver 127.0.0.1\noptions timeout:3 attempts:1\n",
    "nsswitch_conf": "hosts: files dns\n",
}


def build(made: Pair) -> None:
    """Addresses, routes and firewalls, as at the top of this file."""
    asking, serving = made.one, made.other
    for address in (f"{V4}/32", f"{V4_TOO}/32", f"{V6}/128", f"{V6_TOO}/128"):
        ip("-n", serving, "address", "add", address, "dev", "lo")
    # As many ICMP messages as there is reason for.
    set_kernel(serving, ipv4__ip_forward=1, ipv6__conf__all__forwarding=1, ipv4__icmp_ratelimit=0, ipv6__icmp__ratelimit=0)
    for kind, last in (("blackhole", 1), ("prohibit", 2), ("unreachable", 3)):
        ip("-n", serving, "route", "add", kind, f"203.0.113.{last}")
        ip("-n", serving, "route", "add", kind, f"2001:db8:3::{last}")
        ip("-n", asking, "route", "add", kind, f"203.0.113.{128 + last}")
        ip("-n", asking, "route", "add", kind, f"2001:db8:3::{128 + last}")
    ip("-n", asking, "route", "add", "throw", "203.0.113.133")
    ip("-n", asking, "route", "add", "default", "via", "192.0.2.254")
    ip("-n", asking, "route", "add", "default", "via", "2001:db8:1::fe")
    for address in ("192.0.2.99", "2001:db8:1::99"):
        # Its frames go out; nobody has this hardware address.
        ip("-n", asking, "neigh", "add", address, "lladdr", "02:00:00:00:00:99", "nud", "permanent", "dev", made.devices[0])
    rules = "add table inet t; add chain inet t out { type filter hook output priority 0; };"
    rules += "add rule inet t out ip daddr 203.0.113.132 drop; add rule inet t out ip6 daddr 2001:db8:3::132 drop"
    run(*inside(asking), "nft", rules)


@pytest.fixture(scope="module")
def network() -> Iterator[Pair]:
    """The asking namespace and the serving one."""
    need_root_and("nft")
    with pair(["192.0.2.1", "2001:db8:1::1"], ["192.0.2.254", "2001:db8:1::fe"]) as made:
        try:
            build(made)
        except NotPossibleError as error:
            pytest.skip(f"this network cannot be made here: {error}")
        yield made


@pytest.fixture(scope="module")
def server(network, certificates) -> Iterator[ReportingServer]:
    """A server on one of the addresses of each family."""
    with ReportingServer(server_arguments(certificates, f"{V4}:{PORT}", f"[{V6}]:{PORT}"), inside(network.other)) as running:
        yield running


def client(network: Pair, certificates, *arguments: object) -> tuple[int, dict, str]:
    """tsq-client in the asking namespace: exit status, what its JSON says of the host, standard error."""
    command = [
        *inside(network.one), BIN / "tsq-client", "--ca", certificates.authority, "--server-name", "localhost",
        "--interval", "0.01", "--json", *arguments,
    ]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=HANG, check=False)
    assert done.stdout, done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)["hosts"][0], done.stderr


def good(host: dict) -> int:
    """How many of its samples may be used."""
    return len(good_samples(host))


Table = Callable[..., None]
Ask = Callable[..., dict]


@pytest.fixture(scope="module")
def names(network, tmp_path_factory) -> Iterator[Table]:
    """names(time_example={"A": [...]}): what the asking namespace's DNS server says from then on."""
    file = tmp_path_factory.mktemp("names") / "table.json"

    def say(**table: object) -> None:
        file.write_text(json.dumps({name.replace("_", "."): records for name, records in table.items()}))

    say()
    command = [*inside(network.one), sys.executable, "-m", "tests.support.names", file, "127.0.0.1", "53"]
    with etc(network.one, **NAMES_CONFIGURATION), process(command, cwd=ROOT) as running:
        read_until(running.stdout, "ready")
        yield say


@pytest.fixture(scope="module")
def library(network, names, certificates) -> Iterator[Ask]:
    """One process in the client's namespace. On each command it queries with the library, and prints the result."""
    with process([*inside(network.one), sys.executable, "-m", "tests.support.asker"], stdin=subprocess.PIPE, cwd=ROOT) as asker:

        def ask(how: str, host: str, timeout: float = HOURS) -> dict:
            question = {"how": how, "host": host, "ca": str(certificates.authority), "timeout": timeout}
            asker.stdin.write(json.dumps(question) + "\n")
            asker.stdin.flush()
            return json.loads(read_until(asker.stdout, "\n"))

        yield ask


# ---------------------------------------------------------------------------------------------------------- UDP blocked


@pytest.mark.parametrize("address", SILENT.values(), ids=SILENT)
def test_51_where_nothing_comes_back_the_client_ends_in_time_and_suspects_a_firewall(network, certificates, address):
    status, host, _ = client(network, certificates, address, "--timeout", 0.3)
    assert (status, host["error_kind"], host["samples"]) == (3, "HandshakeTimeout", [])
    assert host["error"] == SILENCE


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize("address", SILENT.values(), ids=SILENT)
def test_51_where_nothing_comes_back_the_library_says_the_same(library, address, how):
    told = library(how, address, 0.3)
    assert (told["kind"], told["error"]) == ("HandshakeTimeout", SILENCE)


@pytest.mark.parametrize(("address", "kind", "words"), AT_ONCE.values(), ids=AT_ONCE)
def test_51_what_the_network_says_is_reported_at_once(network, server, certificates, address, kind, words):
    # The time-out is longer than this process may take.
    status, host, _ = client(network, certificates, address, "--timeout", HOURS)
    assert (status, host["error_kind"], host["samples"]) == (3, kind, [])
    assert words in host["error"]


@pytest.mark.parametrize("how", HOWS)
@pytest.mark.parametrize(("address", "kind", "words"), AT_ONCE.values(), ids=AT_ONCE)
def test_51_what_the_network_says_is_reported_at_once_by_the_library_too(library, server, address, kind, words, how):
    told = library(how, address)
    assert told["kind"] == kind
    assert words in told["error"]


def test_51_the_silence_is_the_networks_and_not_the_servers(network, server, certificates):
    """The tests above can fail: on the same network, the server's own addresses answer."""
    for address in (V4, V6):
        status, host, errors = client(network, certificates, address, "--timeout", HOURS)
        assert (status, host["address"], good(host), errors) == (0, address, 3, "")


def test_51_a_network_that_falls_silent_in_mid_run_leaves_what_came_before(network, server, certificates):
    """The way back is cut once the first answers are there. Few requests, so that what is unacknowledged does not stop the last."""
    command = [
        *inside(network.one), BIN / "tsq-client", "--ca", certificates.authority, "--server-name", "localhost", V4,
        "--count", "8", "--interval", "0.2", "--timeout", "0.5", "--watch",
    ]
    cut = ("blackhole", "192.0.2.1")
    with process(command) as running:
        read_until(running.stdout, " ± ")
        ip("-n", network.other, "route", "add", *cut)
        try:
            output, errors = running.communicate(timeout=HANG)
        finally:
            ip("-n", network.other, "route", "delete", *cut)
    assert running.returncode == 0, errors
    assert output.splitlines()[-1].startswith("System clock wrong by")
    assert "Traceback" not in errors


# ------------------------------------------------------------------------------------------------------------------ DNS


@pytest.fixture
def another_server(network, certificates) -> Iterator[ReportingServer]:
    """One on the other addresses, which are dead without it."""
    arguments = server_arguments(certificates, f"{V4_TOO}:{PORT}", f"[{V6_TOO}]:{PORT}")
    with ReportingServer(arguments, inside(network.other)) as running:
        yield running


@pytest.mark.parametrize("how", HOWS)
def test_61_a_name_that_moves_is_asked_at_its_new_address_by_the_same_process(library, names, server, another_server, how):
    def address_of(**records: list[str]) -> str | None:
        names(time_example=records)
        told = library(how, "time.example")
        assert (told["kind"], told["good"]) == (None, 3), told
        return told["address"]

    # The old address answers all the while: only who looks the name up again finds the new one.
    moves = [{"A": [V4]}, {"A": [V4_TOO]}, {"AAAA": [V6]}, {"AAAA": [V6_TOO]}, {"A": [V4]}]
    assert [address_of(**records) for records in moves] == [V4, V4_TOO, V6, V6_TOO, V4]


@pytest.mark.parametrize("how", HOWS)
def test_61_a_name_that_was_lost_is_found_again_by_the_same_process(library, names, server, how):
    kinds = []
    for table in ({}, {"time_example": {"A": [V4]}}, {"time_example": {}}, {"time_example": {"A": [V4]}}, {"time_example": 2}):
        names(**table)
        kinds.append(library(how, "time.example")["kind"])
    assert kinds == ["NameNotFound", None, "NameNotFound", None, "NameNotFound"]


def test_61_a_name_that_moves_between_runs_is_asked_at_its_new_address_and_a_ticket_of_the_old_one_does_no_harm(
    network, names, server, another_server, certificates, tmp_path
):
    found = []
    for address in (V4, V4, V4_TOO, V4_TOO, V4):
        names(time_example={"A": [address]})
        options = ("--session-file", tmp_path / "sessions")
        status, host, errors = client(network, certificates, "time.example", "--timeout", HOURS, *options)
        assert (status, good(host), errors) == (0, 3, "")
        found.append((host["address"], host["zero_rtt"]))
    assert found == [(V4, False), (V4, True), (V4_TOO, False), (V4_TOO, True), (V4, False)]


WITHOUT = {
    "the name does not exist": ({}, "Name or service not known"),
    "the name has no address": ({"time_example": {}}, "No address associated with hostname"),
    "the name server fails": ({"time_example": 2}, "Temporary failure in name resolution"),
    "the name server refuses": ({"time_example": 5}, "Temporary failure in name resolution"),
    "the name server is silent": ({"time_example": None}, "Temporary failure in name resolution"),
}


@pytest.mark.parametrize(("table", "words"), WITHOUT.values(), ids=WITHOUT)
def test_61_a_name_without_an_address_says_why(network, names, certificates, table, words):
    names(**table)
    status, host, errors = client(network, certificates, "time.example", "--timeout", HOURS)
    assert (status, host["error_kind"], host["address"], host["samples"]) == (5, "NameNotFound", None, [])
    advice = "is the name right, and does name resolution work here?"
    assert host["error"] == f"no address for time.example: {words}: {advice}"
    assert errors == ""


def test_61_a_name_with_ipv6_only_is_asked_there(network, names, library, server, certificates):
    names(time_example={"AAAA": [V6]})
    status, host, errors = client(network, certificates, "time.example", "--timeout", HOURS)
    assert (status, host["address"], good(host), errors) == (0, V6, 3, "")
    assert [library(how, "time.example")["address"] for how in HOWS] == [V6] * 3
    status, host, _ = client(network, certificates, "time.example", "-4")
    assert (status, host["error_kind"]) == (5, "NameNotFound")
    assert "no address (IPv4) for time.example" in host["error"]


def test_61_a_name_with_ipv4_only_is_asked_there(network, names, server, certificates):
    names(time_example={"A": [V4]})
    status, host, errors = client(network, certificates, "time.example", "--timeout", HOURS)
    assert (status, host["address"], good(host), errors) == (0, V4, 3, "")
    status, host, _ = client(network, certificates, "time.example", "-6")
    assert (status, host["error_kind"]) == (5, "NameNotFound")
    assert "no address (IPv6) for time.example" in host["error"]


DEAD = {
    "nothing listens": V4_TOO, "nothing listens, IPv6": V6_TOO,
    "silent": "203.0.113.1", "silent, IPv6": "2001:db8:3::1",
    "rejected": "203.0.113.2", "rejected, IPv6": "2001:db8:3::2",
    "dropped here": "203.0.113.132", "dropped here, IPv6": "2001:db8:3::132",
    "blackhole": "203.0.113.129", "no way, IPv6": "2001:db8:3::131",
}  # fmt: skip


@pytest.mark.parametrize("dead", DEAD.values(), ids=DEAD)
@pytest.mark.parametrize("live", [V4, V6])
def test_61_the_next_address_is_asked_where_the_first_is_dead(network, names, library, server, certificates, dead, live):
    both = {"A": [], "AAAA": []}
    # In the order in which they are to be tried; the system puts IPv6 first, and what it knows no way to last.
    for address in (dead, live):
        both["AAAA" if ":" in address else "A"].append(address)
    names(time_example=both)
    # Also where the first is silent, the next is not kept waiting for the time-out.
    status, host, errors = client(network, certificates, "time.example", "--timeout", HOURS)
    assert (status, host["address"], good(host), errors) == (0, live, 3, "")
    for how in ("query", "query_all"):
        told = library(how, "time.example")
        assert (told["kind"], told["address"], told["good"]) == (None, live, 3)
    # One at a time, each for the time-out.
    told = library("connect", "time.example", 1.5)
    assert (told["kind"], told["address"], told["good"]) == (None, live, 3)


def test_61_where_all_addresses_are_dead_the_error_that_says_most_is_reported(network, names, server, certificates):
    names(time_example={"A": ["203.0.113.1", V4_TOO], "AAAA": ["2001:db8:3::1", V6_TOO]})
    status, host, _ = client(network, certificates, "time.example", "--timeout", 0.5)
    assert (status, host["error_kind"], host["samples"]) == (3, "HandshakeTimeout", [])
    names(time_example={"A": [V4_TOO], "AAAA": [V6_TOO]})
    status, host, _ = client(network, certificates, "time.example", "--timeout", HOURS)
    assert (status, host["error_kind"]) == (3, "NothingListens")


# ------------------------------------------------------------------------------------------------------ the network itself


def test_a_network_is_gone_with_its_files_also_after_a_failure():
    need_root_and()
    made = []

    def fail() -> None:
        with pair(["192.0.2.1"], ["192.0.2.2"]) as network, etc(network.one, hosts="127.0.0.1 localhost\n"):
            made.append(network)
            assert network.one in namespaces()
            raise RuntimeError("a test that fails")

    with pytest.raises(RuntimeError, match="a test that fails"):
        fail()
    assert not {made[0].one, made[0].other} & namespaces()
    assert not Path("/etc/netns", made[0].one).exists()


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, timeout=HANG, check=True).stdout
    return {line.split()[0] for line in listed.splitlines()}
