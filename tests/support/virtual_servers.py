"""Servers with the true time for a virtual clock, without a network."""

from collections.abc import Callable
from math import inf

from tests.support.kernel import VirtualKernel
from tsq.client.result import HostResult
from tsq.errors import HandshakeTimeout
from tsq.options import Target
from tsq.timing.sample import make_sample
from tsq.timing.server_state import ServerState

MS = 1_000_000


def truthful(
    twin: VirtualKernel,
    *,
    delay_ns: int = 2 * MS,
    error: float = 1e-6,
    count: int = 3,
    seconds: int = 0,
    before: Callable[[int], None] = lambda number: None,
    after: Callable[[int], None] = lambda number: None,
    wrong: Callable[[int], float] = lambda number: 0.0,
    silent_from: int | None = None,
) -> Callable[..., list[HostResult]]:
    """A replacement of `query_all`.

    error: the servers' reported own error. seconds: between two samples. before, after: called around each round; rounds count from
    1. wrong: the servers' error in a round, seconds. silent_from: the round from which no server answers.
    """
    rounds = 0

    def sample():
        now, ahead = twin.now_ns(), -round(twin.error_ns) + round(wrong(rounds) * 1e9)
        state = ServerState(now, stratum=1, error=error)
        middle = now + delay_ns // 2 + ahead
        return make_sample(now, middle, middle, now + delay_ns, offset_limit=inf, server=state)

    def ask(targets: list[Target], *_: object, **__: object) -> list[HostResult]:
        nonlocal rounds
        rounds += 1
        before(rounds)
        if silent_from is not None and rounds >= silent_from:
            return [HostResult(target, error=HandshakeTimeout("no answer")) for target in targets]
        samples = [sample()]
        for _ in range(count - 1):
            twin.run(seconds)
            samples.append(sample())
        after(rounds)
        return [HostResult(target, address=target.host, samples=tuple(samples)) for target in targets]

    return ask
