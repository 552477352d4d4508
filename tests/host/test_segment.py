"""The segment of bounded time: its layout as the page has it, `tsq.now()`, the C header, and readers while it changes."""

import os
import re
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import tsq
from tests.host import segment_writer
from tsq.daemon.config import FeedConfig
from tsq.errors import NoBoundedTime
from tsq.host import _segment, segment
from tsq.host._segment import clocks
from tsq.host.segment import BoundedTime, Segment, TimeStatus, Update, open_reader

ROOT = Path(__file__).resolve().parent.parent.parent
SECOND = 1_000_000_000
LEAST, MOST = -(2**63), 2**63 - 1
# docs/reference/now-segment.md
SLOT = struct.Struct("=qqqddqqqI")


def update(**changes) -> Update:
    """At this moment: the true time is the system clock's, ± 1 ms."""
    raw_ns, _, _, real_ns = clocks()
    made = Update(
        raw_ns, real_ns - 1_000_000, real_ns + 1_000_000, 0.0, 15e-6, raw_ns + 1000 * SECOND, TimeStatus.SYNCHRONIZED
    )
    return replace(made, **changes)


def written(path: Path, moved_ns: int = 0, asleep_ns: int = 0, **changes) -> Segment:
    """A segment with one update. moved_ns, asleep_ns: how far the clocks are from where they were at the update."""
    made = Segment(str(path))
    write(made, update(**changes), moved_ns, asleep_ns)
    return made


def write(made: Segment, what: Update, moved_ns: int = 0, asleep_ns: int = 0) -> None:
    _, monotonic_ns, boot_ns, real_ns = clocks()
    made.write(what, real_ns - monotonic_ns - moved_ns, boot_ns - monotonic_ns - asleep_ns)


# --------------------------------------------------------------------------------------------------------------- layout


def test_the_file_is_laid_out_as_the_page_says(tmp_path):
    path = tmp_path / "now"
    what = Update(11, 22, 33, 4.5e-6, 6.5e-6, 77, TimeStatus.FROZEN)
    Segment(str(path)).write(what, 88, 99)
    content = path.read_bytes()
    assert len(content) == 384
    assert struct.unpack_from("=8sIHH", content) == (b"TSQ-NOW\0", 384, 1, 0)
    assert struct.unpack_from("=QI", content, 16) == (2, 0)
    for slot in (128, 256):
        assert SLOT.unpack_from(content, slot) == (11, 22, 33, 4.5e-6, 6.5e-6, 77, 88, 99, 3)
        assert not any(content[slot + SLOT.size : slot + 128])
    assert not any(content[28:128])
    assert path.stat().st_mode & 0o777 == 0o644


def test_each_update_changes_both_slots_and_counts_twice(tmp_path):
    path = tmp_path / "now"
    made = written(path)
    for number in range(2, 6):
        write(made, update(raw_ns=number))
        content = path.read_bytes()
        assert struct.unpack_from("=Q", content, 16) == (2 * number,)
        assert SLOT.unpack_from(content, 128)[0] == SLOT.unpack_from(content, 256)[0] == number


def test_a_reader_uses_the_slot_that_the_writer_leaves_alone(tmp_path):
    """A writer that died in the middle: the sequence is odd, slot 0 is torn, slot 1 is whole."""
    path = tmp_path / "now"
    written(path)
    content = bytearray(path.read_bytes())
    struct.pack_into("=Q", content, 16, 3)
    content[128 + 8 : 128 + 16] = bytes(8)
    path.write_bytes(content)
    assert tsq.now(str(path)).status is TimeStatus.SYNCHRONIZED
    assert abs(tsq.now(str(path)).earliest_ns - time.time_ns()) < SECOND


# ------------------------------------------------------------------------------------------------------------------ now


def test_now_is_the_interval_that_was_published_and_goes_on(tmp_path):
    written(tmp_path / "now")
    before = time.time_ns()
    earliest, latest, status = tsq.now(str(tmp_path / "now"))
    after = time.time_ns()
    assert status is TimeStatus.SYNCHRONIZED
    assert before - 1_100_000 < earliest < after - 900_000
    assert before + 900_000 < latest < after + 1_100_000


def test_now_is_a_tuple_with_names(tmp_path):
    written(tmp_path / "now")
    now = tsq.now(str(tmp_path / "now"))
    assert isinstance(now, BoundedTime)
    assert (now.earliest_ns, now.latest_ns, now.status) == tuple(now)


@given(
    elapsed=st.integers(0, 900 * SECOND), frequency=st.floats(-5e-4, 5e-4), growth=st.floats(0, 1e-3), width=st.integers(0, SECOND)
)
def test_the_limits_move_with_the_true_time_and_outwards(tmp_path_factory, elapsed, frequency, growth, width):
    path = str(tmp_path_factory.mktemp("now") / "now")
    raw_ns, _, _, real_ns = clocks()
    what = Update(
        raw_ns - elapsed, real_ns, real_ns + width, frequency, growth, raw_ns + 1000 * SECOND, TimeStatus.HOLDOVER
    )
    write(made := Segment(path), what)
    now = tsq.now(path)
    elapsed_after = clocks()[0] - what.raw_ns
    for seconds in (elapsed, elapsed_after):
        # What passes between here and there on a clock 500 ppm fast, with a bound that grows; a microsecond for rounding.
        slack = (elapsed_after - elapsed) * 1.002 + 1000
        middle = width / 2 + seconds * (1 + frequency)
        assert abs((now.earliest_ns + now.latest_ns - 2 * real_ns) / 2 - middle) <= slack
        assert abs((now.latest_ns - now.earliest_ns) - width - 2 * seconds * growth) <= slack
    made.close()


def test_without_an_update_synchronized_becomes_holdover_after_16_s(tmp_path):
    path = str(tmp_path / "now")
    raw_ns = clocks()[0]
    made = written(Path(path), raw_ns=raw_ns - 15 * SECOND)
    assert tsq.now(path).status is TimeStatus.SYNCHRONIZED
    write(made, update(raw_ns=raw_ns - 16 * SECOND - 1))
    assert tsq.now(path).status is TimeStatus.HOLDOVER
    write(made, update(raw_ns=raw_ns - 17 * SECOND, status=TimeStatus.FROZEN))
    assert tsq.now(path).status is TimeStatus.FROZEN


@pytest.mark.parametrize("status", [TimeStatus.UNSYNCHRONIZED, TimeStatus.DISRUPTED])
def test_an_interval_that_is_not_known_has_no_limits(tmp_path, status):
    written(tmp_path / "now", status=status)
    assert tsq.now(str(tmp_path / "now")) == (LEAST, MOST, status)


def test_a_status_of_a_later_version_is_not_believed(tmp_path):
    path = tmp_path / "now"
    written(path)
    content = bytearray(path.read_bytes())
    for slot in (128, 256):
        struct.pack_into("=I", content, slot + 64, 5)
    path.write_bytes(content)
    assert tsq.now(str(path)) == (LEAST, MOST, TimeStatus.UNSYNCHRONIZED)


@pytest.mark.parametrize("clock", ["moved_ns", "asleep_ns"])
@pytest.mark.parametrize(("by", "disrupted"), [(1_010_000, True), (-1_010_000, True), (900_000, False), (-900_000, False)])
def test_a_step_or_a_sleep_since_the_update_is_noticed(tmp_path, clock, by, disrupted):
    written(tmp_path / "now", **{clock: by})
    now = tsq.now(str(tmp_path / "now"))
    assert (now.status is TimeStatus.DISRUPTED) == disrupted
    assert (now[:2] == (LEAST, MOST)) == disrupted


def test_an_update_from_the_future_is_not_believed(tmp_path):
    written(tmp_path / "now", raw_ns=clocks()[0] + SECOND)
    assert tsq.now(str(tmp_path / "now")) == (LEAST, MOST, TimeStatus.DISRUPTED)


# -------------------------------------------------------------------------------------------- files, restarts of daemons


def test_no_daemon(tmp_path):
    with pytest.raises(NoBoundedTime, match=r"No such file or directory: start tsqd, with `segment = \".*absent\"`"):
        tsq.now(str(tmp_path / "absent"))


def test_the_default_file_is_that_of_the_daemon():
    assert FeedConfig().segment == segment.DEFAULT_SEGMENT == "/run/tsq/now"


def test_a_daemon_that_ended_long_ago(tmp_path):
    path = str(tmp_path / "now")
    raw_ns = clocks()[0]
    written(Path(path), raw_ns=raw_ns - 2000 * SECOND, void_ns=raw_ns - 1000 * SECOND)
    for _ in range(2):
        with pytest.raises(NoBoundedTime, match=r"was not updated for 2\d\d\d s: start tsqd"):
            tsq.now(path)


def test_a_file_that_was_never_written(tmp_path):
    path = tmp_path / "now"
    path.write_bytes(struct.pack("=8sIHH", b"TSQ-NOW\0", 384, 1, 0) + bytes(368))
    with pytest.raises(NoBoundedTime, match="was never updated"):
        tsq.now(str(path))


def header(magic=b"TSQ-NOW\0", size=384, version=1) -> bytes:
    return struct.pack("=8sIHH", magic, size, version, 0)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "is not a file that tsqd writes"),
        (header()[:15], "is not a file that tsqd writes"),
        (b"root:x:0:0:root:/root:/bin/sh\n" * 20, "is not a file that tsqd writes"),
        (header(magic=b"TSQ-NOW ") + bytes(368), "is not a file that tsqd writes"),
        (header(version=2) + bytes(368), r"has version 2 \(expected version 1\)"),
        (header(size=383) + bytes(368), "has 383 bytes"),
        (header() + bytes(367), "has 383 bytes"),
        (header(size=2**32 - 1) + bytes(1000), "has 1016 bytes"),
    ],
)
def test_files_of_other_programs_and_damaged_ones(tmp_path, content, found):
    (tmp_path / "now").write_bytes(content)
    with pytest.raises(NoBoundedTime, match=found):
        tsq.now(str(tmp_path / "now"))


def test_what_is_no_file_is_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(NoBoundedTime, match="is a FIFO"):
        tsq.now(str(tmp_path / "fifo"))
    with pytest.raises(NoBoundedTime, match="is a directory"):
        tsq.now(str(tmp_path))
    with pytest.raises(NoBoundedTime, match="null byte"):
        tsq.now("a\0b")


@given(st.binary(max_size=400))
def test_any_content_gives_a_time_or_our_error(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("any") / "now"
    for whole in (content, header() + content.ljust(368, b"\xa5")):
        path.write_bytes(whole)
        try:
            now = tsq.now(str(path))
        except NoBoundedTime:
            continue
        assert isinstance(now, BoundedTime)


def test_a_restarted_daemon_replaces_the_file_and_readers_follow(tmp_path):
    path = str(tmp_path / "now")
    written(Path(path), earliest_ns=1000).close()
    assert tsq.now(path).earliest_ns < SECOND
    reader = open_reader(path)
    # The daemon has ended: its last update holds on.
    assert tsq.now(path).earliest_ns < SECOND
    written(Path(path))
    assert tsq.now(path).earliest_ns > SECOND
    assert reader.now() is None


def test_a_reader_keeps_the_old_file_while_it_holds_and_takes_the_new_one_then(tmp_path):
    """The old daemon's file was unlinked by something else, so nobody could mark it."""
    path = tmp_path / "now"
    made = written(path)
    assert tsq.now(str(path)).status is TimeStatus.SYNCHRONIZED
    path.unlink()
    assert tsq.now(str(path)).status is TimeStatus.SYNCHRONIZED
    written(path, status=TimeStatus.FROZEN)
    write(made, update(void_ns=1))
    assert tsq.now(str(path)).status is TimeStatus.FROZEN


def test_the_writer_replaces_no_file_that_is_not_its_own(tmp_path):
    (tmp_path / "target").write_text("somebody's")
    (tmp_path / "now").symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic link"):
        written(tmp_path / "now")
    assert (tmp_path / "target").read_text() == "somebody's"


def test_the_writer_makes_the_directory_and_tries_again_after_a_failure(tmp_path):
    path = tmp_path / "run" / "tsq" / "now"
    (tmp_path / "run").write_text("in the way")
    made = Segment(str(path))
    with pytest.raises(OSError, match=r"Not a directory|File exists"):
        write(made, update())
    (tmp_path / "run").unlink()
    write(made, update())
    assert tsq.now(str(path)).status is TimeStatus.SYNCHRONIZED


def test_memory_that_is_too_small_is_refused():
    for kind in (_segment.NowWriter, _segment.ClockBoundWriter):
        with pytest.raises(ValueError, match="expected"):
            kind(bytearray(79))


# ----------------------------------------------------------------------------------------------- readers while it changes


@contextmanager
def writing(kind: str, path: Path) -> Iterator[None]:
    """A process that writes the segment all the time."""
    command = [sys.executable, "-m", "tests.host.segment_writer", kind, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout.readline() == b"begun\n"
            yield
            assert process.poll() is None
        finally:
            process.stdin.close()
            assert process.wait(20) == 0


def test_no_torn_read_in_a_million_while_another_process_writes(tmp_path):
    path = tmp_path / "now"
    numbers, middle = set(), 0
    with writing("now", path):
        read = open_reader(str(path)).now
        for _ in range(1_000_000):
            earliest, latest, status = read()
            # 2 ns on each side are for rounding.
            number, rest = divmod(latest - earliest - 4, 16)
            assert rest == 0
            assert status == 1 + number % 3
            assert earliest + latest >= middle
            middle = earliest + latest
            numbers.add(number)
    assert middle > 2 * segment_writer.EARLIEST_NS
    # It did change. On a busy machine both processes may share a processor.
    assert len(numbers) > 10


# ------------------------------------------------------------------------------------------------------------- C header

PROGRAM = r"""
#include <stdio.h>
#include <stdlib.h>
#include "tsq_now.h"

int main(int count, char **words)
{
    struct tsq_now_reader reader = TSQ_NOW_READER;
    struct tsq_now now = {0, 0, TSQ_UNSYNCHRONIZED};
    long torn = 0, reads = count > 2 ? atol(words[2]) : 1;
    int64_t middle = 0;
    reader.path = words[1];
    for (long read = 0; read < reads; read++) {
        int error = tsq_now(&reader, &now);
        if (error) {
            printf("error %d %s\n", error, tsq_now_error(error));
            return 1;
        }
        if (reads > 1) {
            int64_t width = now.latest_ns - now.earliest_ns - 4;
            torn += width % 16 != 0 || (int) now.status != 1 + width / 16 % 3 || now.earliest_ns / 2 + now.latest_ns / 2 < middle;
            middle = now.earliest_ns / 2 + now.latest_ns / 2;
        }
    }
    printf("%lld %lld %d torn %ld\n", (long long) now.earliest_ns, (long long) now.latest_ns, (int) now.status, torn);
    tsq_now_close(&reader);
    return 0;
}
"""
COMPILERS = {"c99": ["cc", "-std=c99", "-D_GNU_SOURCE", "-pedantic"], "c++": ["c++", "-x", "c++", "-std=c++17"]}


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Compiles the program for a language, once."""
    directory, made = tmp_path_factory.mktemp("c"), {}

    def program(language: str) -> Path:
        if language not in made:
            command, *options = COMPILERS[language]
            if shutil.which(command) is None:
                pytest.skip(f"no {command} here")
            source, made[language] = directory / "program.c", directory / language.replace("+", "p")
            source.write_text(PROGRAM)
            options += ["-O2", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'contrib' / 'c'}"]
            subprocess.run([command, *options, source, "-o", made[language]], check=True, timeout=60)
        return made[language]

    return program


def test_the_program_of_the_page_compiles_and_reads(tmp_path):
    text = (ROOT / "docs" / "howto" / "bounded-time.md").read_text()
    (source,) = re.findall(r"^```c\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    path = tmp_path / "now"
    written(path)
    (tmp_path / "page.c").write_text(source.replace("TSQ_NOW_READER;", f'{{ "{path}", 0 }};'))
    command = ["cc", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'contrib' / 'c'}", tmp_path / "page.c", "-o", tmp_path / "page"]
    subprocess.run(command, check=True, timeout=60)
    assert re.fullmatch(r"\d+ to \d+, status 1", run_c(tmp_path / "page"))


def run_c(program: Path, *words: Path | str) -> str:
    return subprocess.run([program, *words], capture_output=True, text=True, timeout=60, check=False).stdout.strip()


@pytest.mark.parametrize("language", COMPILERS)
def test_the_c_header_reads_what_python_reads(tmp_path, compiled, language):
    path = tmp_path / "now"
    made = written(path, frequency=3e-4, growth=2e-4, raw_ns=clocks()[0] - SECOND)
    before = tsq.now(str(path))
    earliest, latest, status, _, torn = run_c(compiled(language), path).split()
    after = tsq.now(str(path))
    assert before.earliest_ns <= int(earliest) <= after.earliest_ns
    assert before.latest_ns <= int(latest) <= after.latest_ns
    assert (int(status), torn) == (before.status, "0")
    for status in TimeStatus:
        write(made, update(status=status))
        assert int(run_c(compiled(language), path).split()[2]) == tsq.now(str(path)).status == status
    write(made, update(raw_ns=clocks()[0] - 17 * SECOND))
    assert int(run_c(compiled(language), path).split()[2]) == TimeStatus.HOLDOVER
    for clock in ("moved_ns", "asleep_ns"):
        write(made, update(), **{clock: 1_010_000})
        assert run_c(compiled(language), path).split()[:3] == [str(LEAST), str(MOST), "4"]


def test_the_c_header_reports_what_is_no_segment(tmp_path, compiled):
    path, program = tmp_path / "now", compiled("c99")
    assert run_c(program, path).startswith("error 1 ")
    path.write_bytes(b"#!/bin/sh\n" * 100)
    assert run_c(program, path).startswith("error 2 ")
    path.write_bytes(header() + bytes(367))
    assert run_c(program, path).startswith("error 2 ")
    path.write_bytes(header(version=2) + bytes(368))
    assert run_c(program, path).startswith("error 3 ")
    path.write_bytes(header() + bytes(368))
    assert run_c(program, path).startswith("error 4 ")
    path.unlink()
    written(path, void_ns=1)
    assert run_c(program, path).startswith("error 4 ")


def test_no_torn_read_in_a_million_by_the_c_header(tmp_path, compiled):
    path = tmp_path / "now"
    with writing("now", path):
        assert run_c(compiled("c99"), path, "1000000").endswith(" torn 0")


# --------------------------------------------------------------------------------------------------------- system calls


def test_a_read_makes_no_system_call(tmp_path):
    strace = shutil.which("strace")
    if strace is None:
        pytest.skip("strace is not installed: `make peers` installs it where it may")
    path = tmp_path / "now"
    written(path)
    program = f"import os, tsq; now, path = tsq.now, {str(path)!r}; now(path); os.getppid(); "
    program += "[now(path) for _ in range(10000)]; os.getppid()"
    log = tmp_path / "calls"
    command = [strace, "-o", log, "-e", "trace=all", sys.executable, "-c", program]
    done = subprocess.run(command, timeout=60, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")
    between = log.read_text().split("getppid()")[1].splitlines()[1:-1]
    # The interpreter may need memory for its own objects.
    assert [line for line in between if not line.startswith(("mmap(NULL", "munmap(", "brk("))] == []
