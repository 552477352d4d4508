"""The rules of a real kernel's clock on which steering relies, in a guest: frequency, tick, phase slews, leap seconds, steps.

tests/support/kernel.py is a model of these rules. In CI the guest is there. Elsewhere the tests are skipped with the reason.
"""

import json
from collections.abc import Iterator

import pytest

from tests.support.uml import Guest, guest, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing() or "there are guests")

# Runs a scenario in the guest, and prints what came of it as JSON.
PRELUDE = """
import json, time
from tsq.host import _clock
from tsq.host.clock import SystemClock
clock = SystemClock()
STEADY = dict(max_error=0.002, estimated_error=0.0003, synchronized=True)

def gained(seconds):
    "How much faster than the raw clock the clock ran, seconds per second."
    first = clock.daemon_reading()
    time.sleep(seconds)
    then = clock.daemon_reading()
    return (then.difference_ns - first.difference_ns) / (then.raw_ns - first.raw_ns)

def state():
    reading = clock.daemon_reading()
    return dict(frequency=reading.frequency, pending=reading.pending_ns / 1e9, synchronized=reading.synchronized,
                leap=reading.leap, max_error=reading.max_error, tick=_clock.read()[-1])

def put(unix):
    "Set the clock."
    clock.step(unix - time.time(), max_error=0.1, estimated_error=0.1)

def stepped(seconds):
    "By how much the clock was stepped in the next seconds."
    first = clock.daemon_reading()
    time.sleep(seconds)
    return (clock.daemon_reading().difference_ns - first.difference_ns) / 1e9
"""
MIDNIGHT = 1_798_761_600
PPM = 1e-6
# Readings of a guest are some microseconds wide.
RATE_ERROR = 10 * PPM


@pytest.fixture(scope="module")
def machine(tmp_path_factory) -> Iterator[Guest]:
    with guest(tmp_path_factory.mktemp("steering")) as it:
        yield it


@pytest.fixture
def run(machine):
    """Run this code in the guest; the value of its `found`."""

    def run(code: str) -> object:
        return json.loads(machine.python(f"{PRELUDE}\n{code}\nprint(json.dumps(found))").splitlines()[-1])

    return run


def test_frequency_and_tick_act_at_once_and_are_read_back(run):
    found = run("""
found = []
for ppm in (80, -500, 500, 730, -1250, 0):
    clock.steer(ppm * 1e-6, **STEADY)
    found.append([ppm, gained(0.3), state()])
""")
    for ppm, rate, state in found:
        assert rate == pytest.approx(ppm * PPM, abs=RATE_ERROR)
        assert state["frequency"] == pytest.approx(ppm * PPM, abs=1e-10)
        assert (state["tick"] == 10_000) is (abs(ppm) <= 500)
        assert state["synchronized"]
        assert 0.002 <= state["max_error"] < 0.01


def test_a_phase_slew_takes_a_quarter_of_the_rest_each_second_and_leaves_the_frequency_alone(run):
    found = run("""
clock.steer(20e-6, max_error=0.3, estimated_error=0.2, synchronized=False)
first = clock.daemon_reading()
clock.slew_phase(0.4)
begun = state()
time.sleep(6)
then, left = clock.daemon_reading(), state()
clock.steer(20e-6, **STEADY)
steered = state()
clock.slew_phase(0.0)
cancelled = state()
time.sleep(1.1)
found = [begun, (then.difference_ns - first.difference_ns) / 1e9, left, steered, cancelled, gained(0.3)]
""")
    begun, moved, left, steered, cancelled, rate = found
    assert begun["pending"] == pytest.approx(0.4, abs=0.11)
    assert not begun["synchronized"]
    assert 0.3 <= left["max_error"] < 0.31, "it reports no error of its own"
    # Within a second, the kernel has counted a part that is not done yet.
    assert 0.25 < moved <= 0.4 - left["pending"] + 1e-3
    assert left["pending"] == pytest.approx(0.4 * 0.75**6, abs=0.03)
    assert left["frequency"] == pytest.approx(20e-6, abs=1e-10)
    assert 0 < steered["pending"] <= left["pending"], "steering lets it go on"
    assert cancelled["pending"] == 0
    assert rate == pytest.approx(20e-6, abs=RATE_ERROR)


@pytest.mark.parametrize(("leap", "sign"), [(1, -1), (2, 1)], ids=["inserted", "deleted"])
def test_a_leap_second_happens_at_midnight_and_is_taken_back_afterwards(run, leap, sign):
    found = run(f"""
clock.steer(0.0, **STEADY)
put({MIDNIGHT} - 4)
clock.steer(0.0, **STEADY, leap={leap})
announced = state()
found = [stepped(6), announced, state()]
clock.steer(0.0, **STEADY)
found += [state(), stepped(1.5)]
""")
    moved, announced, after, taken_back, more = found
    assert moved == pytest.approx(sign, abs=0.001)
    assert announced["leap"] == after["leap"] == leap, "the kernel leaves the announcement as it is"
    assert after["synchronized"]
    assert taken_back["leap"] == 0
    assert more == pytest.approx(0, abs=0.001)


def test_a_leap_second_that_is_taken_back_before_midnight_does_not_happen(run):
    found = run(f"""
clock.steer(0.0, **STEADY)
put({MIDNIGHT} - 4)
clock.steer(0.0, **STEADY, leap=1)
time.sleep(1.5)
clock.steer(0.0, **STEADY)
found = stepped(4)
""")
    assert found == pytest.approx(0, abs=0.001)


def test_a_notice_comes_when_the_clock_is_set_and_for_nothing_else(run):
    found = run("""
import select
from tsq.host.step_notice import StepNotice
notice = StepNotice()
def noticed():
    return bool(select.select([notice.fd], [], [], 0)[0]), notice.arm()
found = {}
clock.steer(400e-6, **STEADY)
clock.slew_phase(0.3)
time.sleep(2.2)
found["slewed"] = noticed()
clock.slew_phase(0.0)
clock.step(0.001, max_error=0.1, estimated_error=0.1)
found["stepped"] = noticed()
found["armed again"] = noticed()
time.clock_settime(time.CLOCK_REALTIME, time.time() + 2)
found["set"] = noticed()
clock.step(-2, max_error=0.1, estimated_error=0.1)
clock.step(1, max_error=0.1, estimated_error=0.1)
found["set twice"] = noticed()
notice.close()
""")
    yes, no = [True, True], [False, False]
    assert found == {"slewed": no, "stepped": yes, "armed again": no, "set": yes, "set twice": yes}


def test_a_step_disarms_a_leap_second_unless_the_loop_is_switched_off_with_it(run):
    """Why `SystemClock.step` clears STA_PLL. Without that the announcement stays, and nothing happens at midnight."""
    found = run(f"""
found = []
for status in (0x91, 0x10):
    clock.steer(0.0, **STEADY)
    time.sleep(1.1)
    put({MIDNIGHT} - 6)
    clock.steer(0.0, **STEADY, leap=1)
    time.sleep(1.5)
    _clock.adjust(0x100 | 0x2000 | 0x10, seconds=0, nanoseconds=250_000_000, status=status)
    found.append([stepped(6), state()["leap"]])
clock.steer(0.0, **STEADY)
time.sleep(1.1)
put({MIDNIGHT} - 6)
clock.steer(0.0, **STEADY, leap=1)
time.sleep(1.5)
clock.step(0.25, max_error=0.1, estimated_error=0.1)
clock.steer(0.0, **STEADY, leap=1)
found.append([stepped(6), state()["leap"]])
""")
    assert [leap for _, leap in found] == [1, 1, 1]
    assert [moved for moved, _ in found] == pytest.approx([0, -1, -1], abs=0.001)
