"""Types of the compiled clock calls; see _clock.pyx."""

_State = tuple[int, int, int, int, int, int, int]

def clocks() -> tuple[int, int, int, int, int]: ...
def read() -> _State: ...
def read_old_slew() -> int: ...
def stop_old_slew() -> None: ...
def adjust(
    modes: int,
    *,
    offset: int = 0,
    frequency: int = 0,
    maxerror: int = 0,
    esterror: int = 0,
    status: int = 0,
    constant: int = 0,
    seconds: int = 0,
    nanoseconds: int = 0,
    tick: int = 0,
) -> _State: ...
