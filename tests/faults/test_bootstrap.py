"""Fault 63, the boot in 1970: a clock so wrong that no certificate is valid by it, set by a majority of servers, checked afterwards
by what every client checks; and everything that must not pass.

The machine's real clock cannot be wrong here, so the servers are: they live in the year 2050 or so, with certificates of that time.
The virtual clock stands at today's time, which for them is decades ago. aioquic's check, and OpenSSL's in it, reads that one.
"""

import datetime
import re
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from types import SimpleNamespace

import aioquic.tls
import OpenSSL.crypto
import pytest
from cryptography import x509

from tests.cli.peers import DAY, NOW, Authority, Peer, build, closed_port
from tests.cli.test_adjtime import telling
from tests.cli.test_client import Run
from tests.support.adjtime import shifted
from tests.support.kernel import UNSYNC, VirtualKernel
from tsq._fast import clock_ns, pack_tlvs
from tsq.cli import adjtime as command
from tsq.cli.adjtime import main
from tsq.client.blocking import query_all
from tsq.host.clock import SystemClock
from tsq.host.key_files import write_key
from tsq.oneshot.adjtime import AdjustOptions
from tsq.oneshot.bootstrap import bootstrap
from tsq.options import ClientOptions, Trust, parse_target
from tsq.quic.certificates import chain
from tsq.wire.keys import make_key

OK, OWNED, NOT_PERMITTED, BOOTSTRAP, NOT_MOVED, RUNNING, INTERRUPTED = 0, 10, 11, 13, 14, 15, 130
YEAR = 365 * DAY
AWAY = (24 * YEAR).total_seconds()
THEN = NOW + 24 * YEAR

NAMES = {name: getattr(OpenSSL.crypto, name) for name in ("X509", "X509StoreContext", "X509StoreContextError")}


class Store(OpenSSL.crypto.X509Store):
    """Certificates are checked for the time that aioquic has."""

    def __init__(self) -> None:
        super().__init__()
        self.set_time(aioquic.tls.utcnow().replace(tzinfo=None))


@pytest.fixture(scope="module")
def authority() -> Authority:
    """An authority that is valid all the time: only the servers' certificates have their time."""
    made = Authority("Authority of all times")
    made.certificate = build(
        made.name, made.name, made.key, made.key, authority=True, not_before=NOW - 30 * YEAR, not_after=NOW + 60 * YEAR
    )
    return made


@pytest.fixture(scope="module")
def good(authority, tmp_path_factory):
    """A certificate of the servers' time."""
    return authority.issue(tmp_path_factory.mktemp("good"), not_before=THEN - DAY, not_after=THEN + 90 * DAY)


@dataclass
class Machine:
    """The virtual clock, the command, and how often servers were asked."""

    run: Callable[..., Run]
    twin: VirtualKernel
    targets: list[str]
    rounds: list[int]

    @property
    def away(self) -> float:
        return self.twin.error_ns / 1e9


@pytest.fixture
def machine(good, monkeypatch, capsys) -> Iterator[Callable[..., Machine]]:
    """machine(*servers): a server is an offset or a function that answers, with the good certificate, or (offset, files)."""
    with ExitStack() as stack:

        def make(*servers, before_round: Callable[[Machine, int], None] = lambda machine, number: None, **twin) -> Machine:
            targets = []
            for server in servers:
                offset, files = server if isinstance(server, tuple) else (server, good)
                answer = offset if callable(offset) else telling(offset)
                targets.append(str(stack.enter_context(Peer(files, answer)).target))
            away = round(AWAY * 1e9)
            virtual = VirtualKernel(**({"truth_ns": clock_ns() + away, "error_ns": -away} | twin))
            ahead = virtual.truth_ns - clock_ns()
            rounds: list[int] = []
            it = Machine(None, virtual, targets, rounds)

            def now() -> datetime.datetime:
                return datetime.datetime.fromtimestamp(virtual.now_ns() / 1e9, datetime.UTC)

            monkeypatch.setattr(aioquic.tls, "utcnow", now)
            monkeypatch.setattr(aioquic.tls, "crypto", SimpleNamespace(**NAMES, X509Store=Store))

            def ask(*arguments, **options):
                """The samples that a machine with the virtual clock would take."""
                rounds.append(len(rounds) + 1)
                before_round(it, len(rounds))
                # True time has passed.
                virtual.truth_ns = clock_ns() + ahead
                shift_ns = virtual.now_ns() - clock_ns()
                return [shifted(result, shift_ns) for result in query_all(*arguments, **options)]

            monkeypatch.setattr("tsq.cli.adjtime.query_all", ask)

            def run(*arguments: object, owner=lambda: None) -> Run:
                capsys.readouterr()
                given = ["--ca", str(good.authority), *map(str, arguments), *targets]
                try:
                    status = main(given, SystemClock(virtual), owner)
                except SystemExit as end:
                    status = end.code
                captured = capsys.readouterr()
                return Run(status, captured.out, captured.err)

            it.run = run
            return it

        yield make


def as_it_was(it: Machine) -> bool:
    return it.away == pytest.approx(-AWAY, abs=1.0) and (not it.twin.calls or bool(it.twin.status & UNSYNC))


def test_fault_63_without_the_option_every_certificate_is_refused_and_the_clock_stays(machine):
    it = machine(AWAY, AWAY, AWAY)
    run = it.run("--force")
    assert run.status == 3
    assert run.err.count("is not valid before") == 3
    assert it.twin.calls == []


def test_fault_63_with_it_a_majority_of_three_sets_the_clock_and_is_checked_again_by_the_new_time(machine):
    it = machine(AWAY, AWAY, AWAY)
    run = it.run("--bootstrap")
    assert run.status == OK, run.err
    assert abs(it.away) < 0.1
    assert it.rounds == [1, 2, 3]
    assert it.twin.synchronized
    assert "checking their certificates for that time" in run.err
    lines = run.out.splitlines()
    before, stepped = lines[:2]
    assert before.startswith("before: kernel: unsynchronized")
    assert re.fullmatch(r"stepped by \+\d+\.\d{6} s; the servers' certificates are valid by the new clock:", stepped)
    assert "System clock wrong by" in lines[-4]
    assert "slewing by" in lines[-3]
    assert lines[-2].startswith("after:  kernel: synchronized")
    assert lines[-1].startswith("drift:  not measured; no program keeps this clock")
    assert run.out.count("before:") == 1


def test_before_is_what_the_kernel_said_before_the_step(machine):
    it = machine(AWAY, AWAY, AWAY, status=0, maxerror_us=1234)
    assert it.run("--bootstrap").out.startswith("before: kernel: synchronized, maxerror 1.234 ms")


def test_a_step_limit_of_nothing_is_met_by_a_second_step(machine):
    """Agreement with the new clock is not the user's limit: some microseconds are always left."""
    it = machine(AWAY, AWAY, AWAY)
    run = it.run("--bootstrap", "--step", "0")
    assert run.status == OK, run.err
    assert re.search(r"^stepped by [+-]\d+\.\d{3} [mµ]s$", run.out, re.MULTILINE)
    assert abs(it.away) < 0.1


def test_between_step_and_check_the_clock_is_not_called_synchronized(machine):
    seen = []

    def look(it: Machine, number: int) -> None:
        seen.append((number, it.twin.synchronized, it.away))

    it = machine(AWAY, AWAY, AWAY, before_round=look)
    assert it.run("--bootstrap").status == OK
    number, synchronized, away = seen[2]
    assert number == 3
    assert not synchronized
    assert abs(away) < 0.1


def test_a_clock_that_is_right_already_is_slewed_as_ever(machine, authority, tmp_path):
    today = authority.issue(tmp_path / "today")
    it = machine((0.1, today), (0.1, today), (0.1, today), truth_ns=clock_ns() + 100_000_000, error_ns=-1e8)
    run = it.run("--bootstrap")
    assert run.status == OK, run.err
    assert "slewing by +" in run.out
    assert it.rounds == [1, 2]


def test_two_servers_are_not_enough(machine):
    it = machine(AWAY, AWAY)
    run = it.run("--bootstrap")
    assert run.status == BOOTSTRAP
    assert "2 servers can be used, at least 3 are needed" in run.err
    assert it.twin.calls == []


def test_claims_of_unchecked_certificates_are_called_that_and_are_no_result(machine, tmp_path):
    """The first round fails: what its servers say agrees well, and anybody can say it."""
    stranger = Authority("A stranger").issue(tmp_path / "stranger", not_before=THEN - DAY, not_after=THEN + DAY)
    it = machine((AWAY, stranger))
    run = it.run("--bootstrap")
    assert run.status == BOOTSTRAP
    assert it.rounds == [1]
    assert "1 server can be used, at least 3 are needed" in run.err
    assert it.targets[0] in run.out
    assert run.out.splitlines()[-1] == "these are claims: the servers' certificates were not checked, the answers may be forged"
    for word in ("System clock wrong by", "agree", "before:"):
        assert word not in run.out


def test_where_nobody_answers_there_are_no_claims(machine):
    it = machine()
    with closed_port() as closed:
        it.targets.append(str(closed))
        run = it.run("--bootstrap")
    assert (run.status, run.out) == (BOOTSTRAP, "")


@pytest.mark.parametrize("servers", [1, 3])
def test_what_came_of_it_says_whether_certificates_were_checked(machine, good, servers):
    it = machine(*[AWAY] * servers)
    options = AdjustOptions(ClientOptions(trust=Trust(ca_file=str(good.authority))), dry_run=True)
    targets = [parse_target(target) for target in it.targets]
    done = bootstrap(targets, options, SystemClock(it.twin), [], ask=command.query_all, owner=lambda: None)
    assert done.checked == (servers == 3)
    assert bool(done.failed) == (servers == 1)


def test_a_majority_of_those_that_answer_is_none_of_those_that_were_named(machine, authority, tmp_path):
    """Whoever silences the honest ones is no majority by that."""
    bad = authority.issue(tmp_path / "bad", names=("example.org",), not_before=THEN - DAY, not_after=THEN + DAY)
    it = machine(AWAY, AWAY, AWAY, (AWAY, bad), (AWAY, bad), (AWAY, bad))
    run = it.run("--bootstrap")
    assert run.status == BOOTSTRAP
    assert "3 of 6 servers agree" in run.err
    assert it.twin.calls == []


def test_an_expired_certificate_that_was_valid_at_the_claimed_time_does_not_pass_alone(machine, authority, tmp_path):
    """A stolen key of a certificate of another year, and a server that claims that year: outvoted by those who know better."""
    stolen = authority.issue(tmp_path / "stolen", not_before=THEN - 5 * YEAR - DAY, not_after=THEN - 5 * YEAR + DAY)
    liar = (AWAY - (5 * YEAR).total_seconds(), stolen)
    it = machine(AWAY, AWAY, AWAY, liar)
    run = it.run("--bootstrap")
    assert run.status == OK, run.err
    assert abs(it.away) < 0.1
    alone = machine(liar)
    assert alone.run("--bootstrap").status == BOOTSTRAP
    assert alone.twin.calls == []


def test_a_time_before_the_package_was_built_is_not_believed_even_of_a_majority(machine, authority, tmp_path):
    old = authority.issue(tmp_path / "old", not_before=NOW - 5 * YEAR - DAY, not_after=NOW - 5 * YEAR + DAY)
    liar = (-(5 * YEAR).total_seconds(), old)
    it = machine(liar, liar, liar)
    run = it.run("--bootstrap")
    assert run.status == BOOTSTRAP
    assert "when TSQ was built" in run.err
    assert it.twin.calls == []


def test_a_time_before_the_saved_one_is_not_believed_either(machine, tmp_path):
    state = tmp_path / "time"
    state.write_text(f"{round((THEN + YEAR).timestamp())}\n")
    it = machine(AWAY, AWAY, AWAY)
    run = it.run("--bootstrap", "--state-file", state)
    assert run.status == BOOTSTRAP
    assert f"when the time was saved in {state}" in run.err
    assert it.twin.calls == []


def test_the_time_is_saved_after_success(machine, tmp_path):
    state = tmp_path / "time"
    it = machine(AWAY, AWAY, AWAY)
    assert it.run("--bootstrap", "--state-file", state).status == OK
    assert int(state.read_text()) == pytest.approx(THEN.timestamp(), abs=3600)


def test_fault_65_a_damaged_state_file_is_ignored_with_a_warning(machine, tmp_path):
    state = tmp_path / "time"
    state.write_bytes(b"\xff\0")
    it = machine(AWAY, AWAY, AWAY)
    run = it.run("--bootstrap", "--state-file", state)
    assert run.status == OK
    assert "is ignored" in run.err


def test_certificates_of_strangers_prove_nothing_at_any_time(machine, tmp_path):
    stranger = Authority("A stranger").issue(tmp_path / "stranger", not_before=THEN - DAY, not_after=THEN + DAY)
    it = machine((AWAY, stranger), (AWAY, stranger), (AWAY, stranger))
    run = it.run("--bootstrap")
    assert run.status == BOOTSTRAP
    assert "for that time" in run.err
    assert it.twin.calls == []


def test_servers_that_change_their_story_once_their_certificates_are_checked(machine, monkeypatch):
    """They claim a time at which their certificates are valid, and give another one once that is checked."""
    later = AWAY + 3600

    def turn(it: Machine, number: int) -> None:
        if number == 2:
            monkeypatch.setattr(Peer, "answers", lambda self, request: telling(later)(request[2:18], request, 0))

    it = machine(AWAY, AWAY, AWAY, before_round=turn)
    run = it.run("--bootstrap")
    assert run.status == BOOTSTRAP
    assert "and now say" in run.err
    assert it.twin.calls == []


def test_what_fails_the_full_check_puts_the_clock_back(machine, monkeypatch):
    """By the new clock the servers are an hour off again: no success, and the clock is as it was."""

    def turn(it: Machine, number: int) -> None:
        if number == 3:
            assert abs(it.away) < 0.1
            monkeypatch.setattr(Peer, "answers", lambda self, request: telling(AWAY + 3600)(request[2:18], request, 0))

    it = machine(AWAY, AWAY, AWAY, before_round=turn)
    run = it.run("--bootstrap")
    assert run.status == BOOTSTRAP
    assert "the clock was put back" in run.err
    assert "System clock wrong by" not in run.out, "that clock is gone"
    assert len(it.twin.calls) == 4
    assert as_it_was(it)


def test_certificates_that_are_refused_by_the_new_clock_put_it_back(machine, monkeypatch):
    def turn(it: Machine, number: int) -> None:
        if number == 3:
            monkeypatch.setattr(aioquic.tls, "utcnow", lambda: THEN + 10 * YEAR)

    it = machine(AWAY, AWAY, AWAY, before_round=turn)
    run = it.run("--bootstrap")
    assert run.status == BOOTSTRAP
    assert "the clock was put back" in run.err
    assert as_it_was(it)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_fault_69_an_interrupt_in_any_round_leaves_the_clock_as_it_was(machine, number):
    def interrupt(it: Machine, now: int) -> None:
        if now == number:
            raise KeyboardInterrupt

    it = machine(AWAY, AWAY, AWAY, before_round=interrupt)
    run = it.run("--bootstrap")
    assert run.status == INTERRUPTED
    assert as_it_was(it)


def test_a_dry_run_stops_before_the_step(machine):
    it = machine(AWAY, AWAY, AWAY)
    run = it.run("--bootstrap", "--dry-run")
    assert run.status == OK, run.err
    assert "would step by +" in run.out
    assert it.rounds == [1, 2]
    assert it.twin.calls == []


def test_what_forbids_setting_the_clock_forbids_this_too(machine):
    it = machine(AWAY, AWAY, AWAY, permitted=False)
    run = it.run("--bootstrap")
    assert run.status == NOT_PERMITTED
    assert "System clock wrong by" in run.out, "its certificates were checked"
    assert "before: kernel: " in run.out
    it = machine(AWAY, AWAY, AWAY)
    assert it.run("--bootstrap", owner=lambda: "ntpd, process 3").status == OWNED
    assert it.twin.calls == []


def test_a_pinned_key_sets_the_clock_by_one_server_whatever_the_time(machine, good):
    pin = chain.pin(x509.load_pem_x509_certificate(good.certificate.read_bytes()))
    it = machine(AWAY)
    assert main(["--pin", pin, "--force", *it.targets], SystemClock(it.twin), lambda: None) == OK
    assert abs(it.away) < 0.1


def test_a_step_that_does_not_move_the_clock_is_no_success(machine):
    it = machine(AWAY, AWAY, AWAY, deaf=True)
    run = it.run("--bootstrap")
    assert run.status == NOT_MOVED
    assert "the clock was to be stepped by +" in run.err
    assert "moved by +0.000000 s" in run.err
    assert as_it_was(it)


def test_a_clock_that_another_program_steps_after_the_proof_is_left_alone(machine):
    it = machine(AWAY, AWAY, AWAY)
    asked = []

    def owner() -> None:
        # It is looked for after the servers were asked.
        asked.append(1)
        if len(asked) == 2:
            it.twin.step_by_another(0.0005)

    run = it.run("--bootstrap", owner=owner)
    assert run.status == NOT_MOVED, run
    assert "the clock moved by +0.000500 s after it was measured" in run.err
    assert it.twin.calls == []


def test_another_tsq_adjtime_at_work_is_left_to_it(machine):
    it = machine(AWAY, AWAY, AWAY, running=4711)
    run = it.run("--bootstrap")
    assert run.status == RUNNING
    assert "process 4711" in run.err
    assert it.rounds == []


# ------------------------------------------------------------------------------------------------------ signed answers


def signing(offset: float, key):
    """A server that signs every answer with this key."""
    plain = telling(offset)

    def answer(nonce: bytes, request: bytes, number: int) -> list[bytes]:
        (response,) = plain(nonce, request, number)
        return [response + pack_tlvs([key.sign(response)])]

    return answer


@pytest.fixture
def keys(tmp_path):
    """Three keys, and the options that trust them."""
    made = [make_key("ed25519", number) for number in range(3)]
    options = ["--require-signature"]
    for key in made:
        options += ["--verify-key", write_key(str(tmp_path / f"key{key.key_id}"), key)]
    return made, options


def test_63_a_bootstrap_with_signed_answers(machine, keys):
    made, options = keys
    it = machine(*(signing(AWAY, key) for key in made))
    run = it.run("--bootstrap", *options)
    assert run.status == OK, run.err
    assert abs(it.away) < 0.1


@pytest.mark.parametrize("thieves", [2, 3])
def test_63_certificates_of_a_majority_are_not_enough_where_answers_must_be_signed(machine, keys, thieves):
    """They have certificates that are valid at the time that they claim, which without signatures is all that counts."""
    made, options = keys
    false = AWAY + 10 * DAY.total_seconds()
    another = make_key("ed25519", 0)
    for thief in (telling(false), signing(false, another)):
        servers = [*(signing(AWAY, key) for key in made[thieves:]), *[thief] * thieves]
        it = machine(*servers)
        run = it.run("--bootstrap", *options)
        assert run.status == BOOTSTRAP
        assert it.twin.calls == []
        assert "signature" in run.err
    # The same servers set the clock of a machine that asks for none.
    it = machine(*servers[-thieves:], *[telling(false)] * (3 - thieves))
    assert it.run("--bootstrap").status == OK
    assert it.away == pytest.approx(10 * DAY.total_seconds(), abs=0.1)
