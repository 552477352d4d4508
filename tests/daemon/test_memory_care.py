"""When memory is given back; and a thousand connections take none for good, neither Python's nor the C library's."""

import asyncio
import ctypes
import gc
import heapq
import subprocess
import sys

from tests.daemon.following import Following, config, run
from tests.support.processes import ServerProcess
from tsq.daemon.memory_care import MemoryCare
from tsq.daemon.source_list import source_name
from tsq.options import parse_target


class Mallinfo(ctypes.Structure):
    """mallinfo2(3)."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in ["arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"]
    ]


def in_use() -> tuple[int, int]:
    """Python's small blocks; bytes of the C library's heap."""
    gc.collect()
    mallinfo2 = ctypes.CDLL(None).mallinfo2
    mallinfo2.restype = Mallinfo
    info = mallinfo2()
    return sys.getallocatedblocks(), info.uordblks + info.hblkhd


def test_memory_is_given_back_after_the_first_polls_and_then_every_hour():
    care = MemoryCare(100.0)
    assert [care.is_due(now, 0) for now in (100.0, 159.0, 160.0, 161.0, 3759.0, 3760.0, 7359.0, 7360.0)] == [
        False, False, True, False, False, True, False, True,
    ]


def test_memory_is_given_back_after_many_connections_but_not_every_minute_for_a_few():
    care = MemoryCare(0.0)
    assert care.is_due(60.0, 10)
    assert not care.is_due(61.0, 1000)
    assert not care.is_due(120.0, 13)
    assert care.is_due(121.0, 14)
    assert not care.is_due(300.0, 17)
    assert care.is_due(300.0, 18)


def test_closed_connections_are_counted_those_of_removed_sources_too(server):
    async def scenario(following: Following) -> None:
        one = config(server.target, server.ca)
        await following.sources.start([one])
        for closed in range(3):
            assert following.sources.closed == closed
            await following.poll(source_name(one))
            following.sources._list.entries[source_name(one)].source.renew()
        await following.poll(source_name(one))
        await following.sources.reconfigure([])
        assert following.sources.closed == 4

    run(scenario)


def forget_cancelled_timers() -> None:
    """The event loop keeps cancelled timers for a while: up to a hundred, however many connections there were."""
    loop = asyncio.get_running_loop()
    loop._scheduled = [timer for timer in loop._scheduled if not timer.cancelled()]
    heapq.heapify(loop._scheduled)
    loop._timer_cancelled_count = 0


def growth(target: str, authority: str) -> tuple[int, int]:
    """By how many blocks of Python's and bytes of the C library's memory grows over 300 connections."""

    async def scenario(following: Following) -> tuple[int, int]:
        one = config(parse_target(target), authority)
        name = source_name(one)
        await following.sources.start([one])

        async def connections(count: int) -> tuple[int, int]:
            for _ in range(count):
                (polled,) = await following.poll(name)
                assert polled.sample.valid
                following.sources._list.entries[name].source.renew()
                following.events.clear()
            await asyncio.sleep(0)
            forget_cancelled_timers()
            return in_use()

        blocks, size = await connections(100)
        more_blocks, more_size = await connections(300)
        return more_blocks - blocks, more_size - size

    return run(scenario)


def test_connections_leave_nothing_behind_in_any_heap(certificates):
    # Client and server in processes of their own: nothing else changes the memory of this one.
    files = ["--cert", certificates.certificate, "--key", certificates.key]
    with ServerProcess(["--listen", "127.0.0.1:0", *files]) as peer:
        call = f"growth({str(peer.target)!r}, {str(certificates.authority)!r})"
        code = f"from tests.daemon.test_memory_care import growth; print(*{call})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    blocks, size = map(int, done.stdout.split())
    # One object or one string for each connection would be 300 blocks; a handshake takes some thousand.
    assert blocks < 200
    assert size < 100_000
