"""The state of the clock from all sources: without a report it is unsynchronized, and it is never better than reported."""

import json
import socket
import struct
import threading

import pytest

from tests.support.chronyd import Chronyd, needs_chronyd
from tests.support.kernel import UNSYNC, VirtualKernel
from tests.support.ports import free_port
from tsq.errors import ClockError, ConfigError, NotPermitted
from tsq.host.clock import SystemClock
from tsq.host.keepers.chrony import Tracking
from tsq.host.keepers.ntpd_rs import Observation
from tsq.host.keepers.sync_state import HostClock, Keeper, by_observation, by_report, by_tracking, checked, sync_state
from tsq.host.keepers.tsqd import Report, unsynchronized
from tsq.options import LocalClock
from tsq.server.clock_info import clock_info
from tsq.wire.tlv import ClockClass, SourceType

NOWHERE = {
    "chrony": ("127.0.0.1", 9), "chrony_socket": "/nonexistent/chrony", "ntpd_rs": "/nonexistent/ntpd-rs",
    "tsqd": "/nonexistent/tsqd",
}


def tracking(**changes) -> Tracking:
    fields = {
        "reference_id": 0xC0000201, "reference": "192.0.2.1", "stratum": 3, "leap": 0, "correction": -2e-4, "residual_ppm": -0.5,
        "skew_ppm": 0.25, "root_delay": 0.01, "root_dispersion": 0.003,
    }
    return Tracking(**(fields | changes))


def test_chronys_error_is_offset_and_dispersion_and_half_the_delay():
    state = by_tracking(tracking())
    assert state.error == pytest.approx(2e-4 + 0.003 + 0.005)
    assert state.root_delay == 0.01
    assert (state.stratum, state.leap, state.source, state.clock_class) == (3, 0, SourceType.NTP, ClockClass.NTP_SYNCHRONIZED)
    assert state.drift_ppm == 1.75
    assert state.reference == "192.0.2.1"


def report(**changes) -> Report:
    fields = {
        "steers": True, "stratum": 2, "leap": 1, "holdover": False, "reference": "time.example:443", "root_delay": 0.002,
        "root_dispersion": 0.003, "bound_rate": 20e-6,
    }
    return Report(**(fields | changes))


def test_tsqds_error_is_its_bound():
    state = by_report(report())
    assert (state.stratum, state.leap, state.source, state.clock_class) == (2, 1, SourceType.NTP, ClockClass.NTP_SYNCHRONIZED)
    assert (state.keeper, state.reference) == ("tsqd", "time.example:443")
    assert (state.root_delay, state.root_dispersion, state.error) == (0.002, 0.003, 0.004)
    assert state.drift_ppm == pytest.approx(20)
    assert by_report(report(holdover=True)).clock_class is ClockClass.HOLDOVER


def test_a_drift_of_tsqds_that_cannot_be_sent_is_in_the_error():
    state = checked(by_report(report(bound_rate=200e-6)))
    assert state.stratum == 2
    # As long as a state may be used.
    assert state.lasting(14).error >= 0.004 + 14 * 200e-6 - 1e-12
    assert clock_info(state)


def test_a_tsqd_that_knows_no_time_is_stratum_0():
    state = by_report(unsynchronized(True))
    assert (state.stratum, state.leap, state.synchronized) == (0, 3, False)


@pytest.mark.parametrize(
    ("keeper", "steers", "found"),
    [
        (Keeper.AUTO, True, "tsqd"), (Keeper.AUTO, False, "kernel"), (Keeper.TSQD, True, "tsqd"), (Keeper.TSQD, False, "tsqd"),
    ],
)  # fmt: skip
def test_a_tsqd_is_asked_first_if_it_steers_or_is_named(keeper, steers, found, monkeypatch):
    monkeypatch.setattr("tsq.host.keepers.sync_state.ask_status", lambda path: report(steers=steers))
    state = sync_state(HostClock(keeper, **NOWHERE), SystemClock(VirtualKernel()))
    assert state is not None
    assert state.keeper == found


def test_a_tsqd_that_is_not_there_is_stratum_0_by_name():
    state = sync_state(HostClock(Keeper.TSQD, **NOWHERE))
    assert state is not None
    assert (state.keeper, state.stratum, state.leap) == ("tsqd", 0, 3)


def test_a_state_that_lasts_grows_with_the_drift():
    state = by_tracking(tracking())
    assert state.lasting(4.0).error == pytest.approx(state.error + 4 * 1.75e-6)
    assert state.lasting(4.0).root_delay == state.root_delay


@pytest.mark.parametrize(
    ("reference_id", "reference", "source", "clock_class"),
    [
        (0x47505300, "GPS", SourceType.GPS, ClockClass.GNSS),
        (0x50505330, "PPS0", SourceType.GPS, ClockClass.GNSS),
        (0x50484330, "PHC0", SourceType.PTP, ClockClass.PTP_GRANDMASTER),
        (0x54535100, "TSQ", SourceType.UNKNOWN, ClockClass.UNKNOWN),
        (0x7F7F0101, "7F7F0101", SourceType.MANUAL, ClockClass.UNKNOWN),
        (0x12345678, "2001:db8::1", SourceType.NTP, ClockClass.NTP_SYNCHRONIZED),
    ],
)
def test_what_chrony_follows(reference_id, reference, source, clock_class):
    state = by_tracking(tracking(reference_id=reference_id, reference=reference, stratum=1))
    assert (state.source, state.clock_class) == (source, clock_class)


@pytest.mark.parametrize("changes", [{"leap": 3}, {"stratum": 0}])
def test_fault_33_a_chrony_that_is_not_synchronized_is_stratum_0(changes):
    state = by_tracking(tracking(**changes))
    assert (state.stratum, state.leap, state.synchronized) == (0, 3, False)


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    "changes",
    [
        {"root_delay": NAN}, {"root_delay": INF}, {"root_delay": -INF}, {"root_delay": -0.001}, {"root_delay": 1e300},
        {"root_dispersion": NAN}, {"root_dispersion": INF}, {"root_dispersion": -0.001}, {"root_dispersion": 1e18},
        {"root_dispersion": -0.001, "correction": 1.0}, {"correction": NAN}, {"correction": -INF}, {"correction": 17.0},
        {"skew_ppm": NAN}, {"skew_ppm": INF}, {"skew_ppm": 1e6}, {"residual_ppm": NAN}, {"residual_ppm": -66.0},
        {"stratum": 17}, {"stratum": 255}, {"stratum": 65535}, {"leap": 4}, {"leap": 65535},
    ],
    ids=str,
)  # fmt: skip
def test_an_impossible_state_is_unsynchronized_and_the_trouble_is_named(changes):
    state = checked(by_tracking(tracking(**changes)))
    assert (state.stratum, state.leap, state.error) == (0, 3, 16.0)
    assert state.trouble.startswith("chrony reports values that cannot be used: ")
    # It can be reported to clients.
    assert clock_info(state.lasting(4.0))[0]


@pytest.mark.parametrize(
    "changes", [{}, {"root_delay": 0.0, "root_dispersion": 0.0}, {"stratum": 15}, {"stratum": 16}, {"correction": 15}]
)
def test_a_possible_state_is_unchanged(changes):
    state = by_tracking(tracking(**changes))
    assert checked(state) == state
    assert state.synchronized == (changes.get("stratum") != 16)


@pytest.mark.parametrize("keeper", [Keeper.KERNEL, Keeper.AUTO])
@pytest.mark.parametrize("error", [NotPermitted("no"), ClockError("no such call"), OSError(38, "Function not implemented")])
def test_if_the_kernel_cannot_be_read_the_declared_state_is_used(keeper, error):
    class Refusing(SystemClock):
        def state(self):
            raise error

    alone = sync_state(HostClock(keeper, **NOWHERE), Refusing(VirtualKernel()))
    assert (alone.stratum, bool(alone.trouble)) == (0, True)
    state = sync_state(HostClock(keeper, **NOWHERE, local=LocalClock(4)), Refusing(VirtualKernel()))
    assert (state.stratum, state.keeper, state.trouble) == (4, "operator", alone.trouble)


def test_ntpd_rs():
    state = by_observation(Observation(2, 1, 0.01, 0.002))
    assert (state.stratum, state.leap, state.source, state.error) == (2, 1, SourceType.NTP, 0.007)
    assert not by_observation(Observation(0, 3, 0.01, 0.002)).synchronized


def test_the_kernel_has_no_stratum_so_the_highest_is_reported():
    twin = VirtualKernel(status=0, maxerror_us=2500, pending_ns=100_000)
    state = sync_state(HostClock(Keeper.KERNEL), SystemClock(twin))
    assert (state.stratum, state.leap) == (15, 0)
    assert state.error == pytest.approx(0.0026)


def test_fault_33_a_kernel_that_is_not_synchronized_is_stratum_0():
    state = sync_state(HostClock(Keeper.KERNEL), SystemClock(VirtualKernel(status=UNSYNC)))
    assert (state.stratum, state.leap, state.error) == (0, 3, 16.0)


def test_the_first_program_that_answers_is_used_and_the_kernel_last():
    twin = VirtualKernel(status=0, maxerror_us=10)
    assert sync_state(HostClock(**NOWHERE), SystemClock(twin)).keeper == "kernel"


@pytest.mark.parametrize("keeper", [Keeper.CHRONY, Keeper.NTPD_RS])
def test_a_named_program_that_is_silent_gives_an_unsynchronized_state(keeper):
    state = sync_state(HostClock(keeper, **NOWHERE), SystemClock(VirtualKernel(status=0, maxerror_us=10)))
    assert (state.keeper, state.stratum) == (keeper.value, 0)


def test_without_a_keeper_no_program_is_queried():
    assert sync_state(HostClock(Keeper.NONE, local=LocalClock(1))) is None


def test_the_declared_state_is_used_if_no_program_reports_one():
    local = LocalClock(2, "ptp", 1e-7)
    unknown, known = SystemClock(VirtualKernel(status=UNSYNC)), SystemClock(VirtualKernel(status=0, maxerror_us=500))
    state = sync_state(HostClock(Keeper.KERNEL, local=local), unknown)
    assert (state.keeper, state.stratum, state.leap, state.source, state.error) == ("operator", 2, 0, SourceType.PTP, 1e-7)
    # The kernel's error is known, its stratum is not.
    state = sync_state(HostClock(Keeper.KERNEL, local=local), known)
    assert (state.keeper, state.stratum, state.source, state.error) == ("kernel", 2, SourceType.PTP, 0.0005)


@needs_chronyd
def test_the_declared_state_is_not_used_against_chronys(tmp_path):
    with Chronyd(tmp_path / "chrony", "local stratum 9") as running:
        state = sync_state(HostClock(**(NOWHERE | {"chrony": running.command}), local=LocalClock(1)))
    assert (state.keeper, state.stratum) == ("chrony", 9)


@pytest.mark.parametrize("fields", [{"stratum": 0}, {"stratum": 16}, {"stratum": 1, "source": "sun"}, {"stratum": 1, "error": 0.0}])
def test_declarations_that_make_no_sense(fields):
    with pytest.raises(ConfigError):
        LocalClock(**fields)


def test_an_ntpd_rs_at_its_socket_comes_before_the_kernel(tmp_path):
    system = {"stratum": 2, "leap_indicator": "NoWarning", "root_delay": 0.02, "root_dispersion": 0.001}
    data = json.dumps({"system": system}).encode()
    path = str(tmp_path / "observe")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    listener.listen()

    def answer() -> None:
        with listener, listener.accept()[0] as stream:
            stream.sendall(struct.pack("!Q", len(data)) + data)

    thread = threading.Thread(target=answer)
    thread.start()
    host_clock = HostClock(**(NOWHERE | {"chrony": ("127.0.0.1", free_port()), "ntpd_rs": path}))
    state = sync_state(host_clock, SystemClock(VirtualKernel(status=0, maxerror_us=10)))
    thread.join(20)
    assert (state.keeper, state.stratum, state.error) == ("ntpd-rs", 2, pytest.approx(0.011))
