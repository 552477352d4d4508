"""Types of the compiled load; see _load.pyx."""

from collections.abc import Callable, Mapping
from typing import final

from tsq.dataplane.session import Session

@final
class Asker:
    sent: int
    answered: int
    lost: int
    exact: int
    @property
    def held(self) -> list[float]: ...
    def __new__(cls, sessions: Mapping[bytes, Session]) -> Asker: ...
    def run(
        self,
        fd: int,
        total: int,
        window: int,
        rate: float,
        seconds: float,
        exact: bool,
        control: Callable[[bytes], None] | None = None,
    ) -> list[float]: ...
