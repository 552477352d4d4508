"""Asks servers in turn, each with a nonce that only the answer before it gives, so that their answers prove their order.

Comes in: targets, options, the chain, what checks signatures. Goes out: records, as they are made. It must never ask two servers at
the same time, or go on after a server that does not answer as if it had.
"""

import contextlib
from collections.abc import AsyncIterator, Sequence
from functools import partial

from tsq.audit.records import Chain, Record
from tsq.client.asynchronous import connect
from tsq.client.exchange import Exchanged, Rules
from tsq.errors import NoAnswer
from tsq.options import ClientOptions, Target
from tsq.wire.signature import Verifier


def tour(count: int) -> list[int]:
    """An order in which each of so many servers is asked directly after each other one, once: an Euler tour (Hierholzer)."""
    left = {start: [end for end in range(count - 1, -1, -1) if end != start] for start in range(count)}
    path, way = [0], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            way.append(path.pop())
    return way[::-1]


async def ask_in_turn(targets: Sequence[Target], options: ClientOptions, verifier: Verifier, chain: Chain) -> AsyncIterator[Record]:
    """The records of one tour. Raises TSQError where a server cannot be reached or gives no valid answer."""
    made: list[Record] = []

    def keep(target: Target, exchanged: Exchanged) -> None:
        record = chain.add(str(target), exchanged.request, exchanged.response, exchanged.t1_ns, exchanged.t4_ns)
        if record is not None:
            made.append(record)

    async with contextlib.AsyncExitStack() as stack:
        clients = []
        for target in targets:
            # Every answer has the state of the server's clock: it is signed as well.
            rules = Rules(verifier=verifier, exact=False, state_interval=0.0, nonces=chain.nonce, keep=partial(keep, target))
            clients.append(await stack.enter_async_context(connect(target, options, rules=rules)))
        for number in tour(len(targets)):
            sample = await clients[number].sample()
            if not sample.valid or not made:
                raise NoAnswer(f"{targets[number]} gave no answer for the chain: {sample.detail or sample.reason}")
            yield made.pop()
            made.clear()
