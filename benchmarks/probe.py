"""Exchanges with one server at a fixed rate, with all their timestamps: the client of `benchmarks.accuracy`.

    python -m benchmarks.probe 192.0.2.1:4433 --ca ca.pem --rate 64 --seconds 4 [--exact] [--warm] [--stream]

Prints one JSON list for each exchange: T1, T2, T3, T4 (Unix ns), the exact T3 from a later answer (null if none), the sources of T1
and T4. It asks through `tsq.client.attempt`'s own socket and channel, so with its stamps; but it writes its requests
itself, and reads `tsq.t3` itself (docs/reference/protocol.md R12), so that it does not depend on what the client makes of them.
"""

import argparse
import json
import os
import select
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

from tsq._fast import ns_from_ntp
from tsq.client.attempt import Attempt, open_attempt
from tsq.client.exchange import Exchange, Rules
from tsq.options import ClientOptions, Target, Trust, parse_target
from tsq.timing.sample import Sample, StampSource
from tsq.wire.message import Response, decode_response, encode_request

_EXACT_KEY = "tsq.t3"
_PREFIX = 8
_SETTLE = 0.3
_ANSWER_WAIT = 0.05


@dataclass(slots=True)
class Times:
    """The times of one exchange."""

    t1_ns: int
    t1_source: str
    t2_ns: int = 0
    t3_ns: int = 0
    t4_ns: int = 0
    t4_source: str = ""
    exact_ns: int | None = None


class RecordingExchange(Exchange):
    """An Exchange that keeps the raw times of each nonce."""

    def __init__(self, rules: Rules, exact: bool) -> None:
        super().__init__(rules)
        self.exact = exact
        self.times: dict[bytes, Times] = {}

    def request(self, *_: Any, **__: Any) -> tuple[bytes, bytes]:
        nonce = os.urandom(16)
        return nonce, encode_request(nonce, metadata={_EXACT_KEY: ""} if self.exact else None)

    def sent(self, nonce: bytes, t1_ns: int, source: StampSource, *more: Any, **named: Any) -> None:
        self.times[nonce] = Times(t1_ns, str(source))
        super().sent(nonce, t1_ns, source, *more, **named)

    def answer(self, data: bytes, t4_ns: int, source: StampSource, *more: Any, **named: Any) -> Sample | None:
        response = decode_response(data)
        if isinstance(response, Response) and (times := self.times.get(response.nonce)) is not None:
            times.t2_ns, times.t3_ns = ns_from_ntp(response.receive_ntp, t4_ns), ns_from_ntp(response.send_ntp, t4_ns)
            times.t4_ns, times.t4_source = t4_ns, str(source)
            self._earlier((response.metadata or {}).get(_EXACT_KEY), t4_ns)
        return super().answer(data, t4_ns, source, *more, **named)

    def _earlier(self, reported: str | None, pivot_ns: int) -> None:
        """Store a reported transmit timestamp: 16 hex digits of an earlier nonce, 16 of the time."""
        if not reported:
            return
        prefix, left = bytes.fromhex(reported[: 2 * _PREFIX]), int(reported[2 * _PREFIX :], 16)
        for nonce in reversed(self.times):
            if nonce[:_PREFIX] == prefix:
                self.times[nonce].exact_ns = ns_from_ntp(left, pivot_ns)
                return


class Probe:
    """One connection."""

    def __init__(self, target: Target, ca: str, exact: bool, stream: bool) -> None:
        options = ClientOptions(trust=Trust(ca_file=ca), server_name="localhost", stream=stream)
        rules = Rules(precision_ns=1, state_interval=None)
        address = (socket.AF_INET, (target.host, target.port))
        self._attempt: Attempt = open_attempt(target, options, rules, [], None, address, count())
        self._channel = self._attempt.channel
        self.exchange = self._channel.exchange = RecordingExchange(rules, exact)
        self._channel.start(time.monotonic())
        end = time.monotonic() + 10
        while not self._channel.established:
            if time.monotonic() > end:
                raise TimeoutError("the handshake did not finish")
            self._turn(time.monotonic() + 0.1)
        self.rest(time.monotonic() + _SETTLE)

    def ask(self) -> None:
        self._channel.ask(time.monotonic())
        self._attempt.pump(time.monotonic())

    def ask_and_wait(self) -> bytes:
        """Send a request, and wait for the answer; the nonce."""
        self.ask()
        nonce = next(reversed(self.exchange.times))
        end = time.monotonic() + _ANSWER_WAIT
        while not self.exchange.times[nonce].t4_ns and time.monotonic() < end:
            self._turn(end)
        return nonce

    def rest(self, until: float) -> None:
        """Serve the connection."""
        while time.monotonic() < until:
            self._turn(until)

    def close(self) -> None:
        self._attempt.finish(time.monotonic())

    def _turn(self, until: float) -> None:
        channel = self._channel
        now = time.monotonic()
        if channel.deadline is not None and channel.deadline <= now:
            channel.handle_timer(now)
        if channel.error is not None:
            raise channel.error
        self._attempt.pump(now)
        due = until if channel.deadline is None else min(until, channel.deadline)
        # select has a resolution of microseconds, epoll only of milliseconds.
        if select.select([self._attempt.udp.fileno()], [], [], max(0.0, due - time.monotonic()))[0]:
            self._attempt.readable(time.monotonic(), stamps=True)


def run(target: Target, ca: str, *, rate: float, seconds: float, exact: bool, warm: bool, stream: bool = False) -> list[Times]:
    """warm: one exchange just before each measured one, so that the transmit path is not idle."""
    probe = Probe(target, ca, exact, stream)
    warmed = set()
    start = due = time.monotonic()
    while due < start + seconds:
        probe.rest(due)
        if warm:
            warmed.add(probe.ask_and_wait())
        probe.ask()
        # A client that is late skips polls.
        due = max(due + 1 / rate, time.monotonic())
    probe.rest(time.monotonic() + _ANSWER_WAIT)
    if exact:
        # One more exchange reports the transmit timestamp of the last answer; it does not count.
        warmed.add(probe.ask_and_wait())
    probe.close()
    return [times for nonce, times in probe.exchange.times.items() if nonce not in warmed and times.t4_ns]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command."""
    parser = argparse.ArgumentParser("python -m benchmarks.probe", description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("server", type=parse_target)
    parser.add_argument("--ca", required=True)
    parser.add_argument("--rate", type=float, default=64.0)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--exact", action="store_true")
    parser.add_argument("--warm", action="store_true")
    parser.add_argument("--stream", action="store_true")
    values = parser.parse_args(arguments)
    found = run(
        values.server, values.ca, rate=values.rate, seconds=min(60.0, values.seconds), exact=values.exact, warm=values.warm,
        stream=values.stream,
    )
    print(json.dumps([[t.t1_ns, t.t2_ns, t.t3_ns, t.t4_ns, t.exact_ns, t.t1_source, t.t4_source] for t in found]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
