"""What a broken rule does always, and a machine that keeps a process waiting does seldom."""

from collections.abc import Callable

_TRIES = 5


def in_one_of_some(holds: Callable[[], bool]) -> bool:
    """Whether it holds in one of some tries.

    A request whose answer is late is repeated, and an exact T3 that is late is not waited for: both depend on the processor's other
    work.
    """
    return any(holds() for _ in range(_TRIES))
