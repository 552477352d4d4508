"""Types of the compiled clock calls; see _clock.pyx."""

_State = tuple[int, int, int, int, int, int]

BUILD_TIME: int

def read() -> _State: ...
def running() -> tuple[int, int, int, int]: ...
def adjust(
    modes: int,
    *,
    offset: int = 0,
    maxerror: int = 0,
    esterror: int = 0,
    status: int = 0,
    constant: int = 0,
    seconds: int = 0,
    nanoseconds: int = 0,
) -> _State: ...
