"""How much a run measures: in full (about fifteen minutes), quickly (about three), or the smallest that runs each part.

Comes in: nothing. Goes out: a Plan. It must never hold a result.
"""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Plan:
    """Rounds, and seconds of each side in a round."""

    mode: str
    # Serving: connected clients step by step; the last steps for the rows that are worth their time; memory where connected.
    clients: tuple[int, ...]
    most_clients: int
    serving_rounds: int
    serving_seconds: float
    delay_rounds: int
    delay_exchanges: int
    accuracy_rates: tuple[int, ...]
    accuracy_rounds: int
    accuracy_seconds: float
    # At one poll a second all sides ask at the same time.
    slow_seconds: float
    loads: tuple[str, ...]
    shots: int
    handshake_rounds: int
    handshakes: int
    flood_rounds: int
    flood_seconds: float
    # Clients by real handshakes, at rest.
    resting: int
    # Clients in turn.
    many: tuple[int, ...]
    many_rounds: int
    many_seconds: float
    many_requests: int


FULL = Plan(
    mode="full",
    clients=(1, 10, 100, 1000),
    most_clients=10_000,
    serving_rounds=4,
    serving_seconds=0.5,
    delay_rounds=5,
    delay_exchanges=400,
    accuracy_rates=(1, 64, 1000),
    accuracy_rounds=3,
    accuracy_seconds=2.0,
    slow_seconds=30.0,
    loads=("idle", "both cores loaded"),
    shots=7,
    handshake_rounds=5,
    handshakes=20,
    flood_rounds=3,
    flood_seconds=2.0,
    resting=10_000,
    many=(1000, 1_000_000),
    many_rounds=3,
    many_seconds=1.0,
    many_requests=40_000,
)
QUICK = replace(
    FULL,
    mode="quick",
    clients=(1, 100, 300),
    most_clients=0,
    serving_rounds=2,
    serving_seconds=0.3,
    delay_rounds=2,
    delay_exchanges=200,
    accuracy_rates=(64,),
    accuracy_rounds=1,
    accuracy_seconds=1.5,
    slow_seconds=0.0,
    shots=2,
    handshake_rounds=2,
    handshakes=8,
    flood_rounds=2,
    flood_seconds=1.0,
    resting=1000,
    many=(1000, 100_000),
    many_rounds=2,
    many_requests=20_000,
)
SMALLEST = replace(
    QUICK,
    mode="smallest",
    clients=(1,),
    serving_rounds=1,
    serving_seconds=0.1,
    delay_rounds=1,
    delay_exchanges=20,
    accuracy_seconds=0.3,
    loads=("idle",),
    shots=1,
    handshake_rounds=1,
    handshakes=2,
    flood_rounds=1,
    flood_seconds=0.3,
    resting=20,
    many=(20,),
    many_rounds=1,
    many_seconds=0.1,
    many_requests=100,
)
PLANS = {plan.mode: plan for plan in (FULL, QUICK, SMALLEST)}
