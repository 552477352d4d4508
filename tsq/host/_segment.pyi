"""Types of the compiled shared memory; see _segment.pyx."""

from collections.abc import Callable
from typing import Generic, Self, TypeVar, final

from _typeshed import ReadableBuffer, WriteableBuffer

NOW_SIZE: int
CLOCKBOUND_SIZE: int
SHM_SIZE: int

_Result = TypeVar("_Result")
_Status = TypeVar("_Status")

def clocks() -> tuple[int, int, int, int]: ...
def coarse_clock() -> tuple[int, int]: ...

@final
class NowWriter:
    def __init__(self, memory: WriteableBuffer) -> None: ...
    def write(
        self,
        raw_ns: int,
        earliest_ns: int,
        latest_ns: int,
        frequency: float,
        growth: float,
        void_ns: int,
        moved_ns: int,
        asleep_ns: int,
        status: int,
    ) -> None: ...

@final
class NowReader(Generic[_Result]):
    def __init__(
        self,
        memory: ReadableBuffer,
        result: Callable[[int, int, _Status], _Result],
        statuses: tuple[_Status, ...],
        *,
        unsynchronized: int,
        disrupted: int,
        kept: int,
        left: int,
    ) -> None: ...
    def age(self) -> float | None: ...
    def now(self) -> _Result | None: ...

@final
class ClockBoundWriter:
    def __init__(self, memory: WriteableBuffer) -> None: ...
    def write(self, as_of_ns: int, void_ns: int, bound_ns: int, drift_ppb: int, status: int) -> None: ...

@final
class NtpShm:
    def __new__(cls, unit: int, mode: int) -> Self: ...
    def write(self, true_ns: int, local_ns: int, leap: int, precision: int) -> None: ...
    def close(self) -> None: ...
