"""Fuzzing of what reads the network's bytes, against the oracle: `python -m tests.fuzz --seconds 60 --seed 1`.

Valid messages are changed at random and given to unpack_tlvs, unpack_message, decode_request, decode_response and ns_from_ntp.
Anything but the oracle's answer, or another exception than MalformedMessage, ends it with exit status 1 and that input.
"""

import random
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from tests.support import messages, oracle
from tests.support.fuzzing import first_difference, options
from tsq._fast import ns_from_ntp, ntp_from_ns, pack_tlvs, unpack_message, unpack_tlvs
from tsq.errors import MalformedMessage
from tsq.wire.message import decode_request, decode_response


@dataclass(frozen=True)
class Difference:
    """An input that is not treated as the oracle says."""

    target: str
    given: str
    expected: str
    found: str

    def __str__(self) -> str:
        return f"{self.target}({self.given})\n  expected {self.expected}\n  found    {self.found}"


def answer_of(call: Callable[..., Any], *arguments: Any) -> Any:
    """What a call gives; None for MalformedMessage. Any other exception is an answer too: a wrong one."""
    try:
        return call(*arguments)
    except MalformedMessage:
        return None
    except Exception as error:
        return error


def check_bytes(data: bytes) -> Difference | None:
    """All that reads bytes."""
    answers = (
        ("unpack_tlvs", answer_of(unpack_tlvs, data), oracle.unpack(data)),
        ("unpack_message", answer_of(unpack_message, data), oracle.unpack_message(data)),
    )
    for target, found, expected in answers:
        if found != expected:
            return Difference(target, data.hex(), repr(expected), repr(found))
    if answers[0][1] is not None and answer_of(pack_tlvs, answers[0][1]) != data:
        return Difference("pack_tlvs", data.hex(), data.hex(), repr(answer_of(pack_tlvs, answers[0][1])))
    for target, call, good in (
        ("decode_request", decode_request, oracle.request_good(data)),
        ("decode_response", decode_response, oracle.response_good(data)),
    ):
        found = answer_of(call, data)
        if isinstance(found, Exception) or (found is not None) != good:
            return Difference(target, data.hex(), "a message" if good else "MalformedMessage", repr(found))
    return None


def check_time(ntp: int, pivot_ns: int) -> Difference | None:
    """Timestamps in both directions."""
    right = oracle.ns_from_ntp(ntp, pivot_ns)
    found = answer_of(ns_from_ntp, ntp, pivot_ns)
    fits = oracle.fits(right)
    expected = {True: [right], False: [None], None: [right, None]}[fits]
    if found not in expected:
        return Difference("ns_from_ntp", f"{ntp:#x}, {pivot_ns}", repr(expected), repr(found))
    if answer_of(ntp_from_ns, pivot_ns) != oracle.ntp_from_ns(pivot_ns):
        return Difference("ntp_from_ns", str(pivot_ns), hex(oracle.ntp_from_ns(pivot_ns)), repr(answer_of(ntp_from_ns, pivot_ns)))
    return None


def inputs(seed: int) -> Iterator[Difference | None]:
    """The result of one input after another, without end; the same ones for the same seed."""
    rng = random.Random(seed)
    while True:
        kind = rng.random()
        if kind < 0.75:
            yield check_bytes(messages.mutated(rng))
        elif kind < 0.85:
            yield check_bytes(rng.randbytes(rng.randint(0, 64)))
        else:
            yield check_time(_number(rng, 64) % oracle.ERA, _number(rng, 64) + oracle.INT64_MIN)


def run(seed: int, *, count: int | None = None, seconds: float | None = None) -> tuple[int, Difference | None]:
    """(how many inputs, the first difference) until `count` inputs or `seconds` have passed."""
    return first_difference(inputs(seed), count, seconds)


def main(arguments: list[str] | None = None) -> int:
    """Run it; the exit status."""
    values = options("python -m tests.fuzz", __doc__.partition("\n")[0], arguments)
    number, difference = run(values.seed, count=values.inputs, seconds=values.seconds)
    if difference is not None:
        sys.stdout.write(f"seed {values.seed}, input {number}: {difference}\n")
        return 1
    sys.stdout.write(f"seed {values.seed}: {number} inputs, all as the oracle says\n")
    return 0


def _number(rng: random.Random, bits: int) -> int:
    """A number of up to so many bits: any, or near a power of two, or near an edge."""
    number = rng.choice([rng.getrandbits(bits), 1 << rng.randrange(bits), (1 << bits) - 1, 0]) + rng.randint(-2, 2)
    return number % (1 << bits)


if __name__ == "__main__":
    sys.exit(main())
