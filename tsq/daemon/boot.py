"""The clock at the start of the daemon: set by a majority of the sources where it is wrong by years.

Comes in: the sources' configurations, the clock. Goes out: what was done, as a sentence. It must never set the clock by a time that
`tsq.oneshot.bootstrap` has not confirmed.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from tsq.client.blocking import query_all
from tsq.client.exchange import Rules
from tsq.client.result import HostResult
from tsq.daemon.config import SourceConfig
from tsq.host.clock import SystemClock, build_time_ns
from tsq.oneshot.adjtime import AdjustOptions
from tsq.oneshot.bootstrap import Floor, bootstrap
from tsq.options import ClientOptions, Target, Trust


def set_at_start(
    sources: Sequence[SourceConfig], clock: SystemClock, saved_ns: int, say: Callable[[str], None], *, signed: bool = False
) -> str:
    """Set a clock that may be wrong by decades; what was done. saved_ns: a time that was right once, Unix ns; 0: none. Raises
    ClockError. Certificates and signatures are checked as each source's configuration says; sources that prove nothing have no
    vote. signed: only those whose answers must be signed have one.
    """
    voting = [source for source in sources if source.votes_at_start and (source.require_signature or not signed)]
    verifiers = {source.target: source.verifier for source in voting}
    options = {source.target: replace(source.client, count=3, interval=0.1, session_file=None) for source in voting}

    def ask_each(targets: Sequence[Target], common: ClientOptions, *, rules: Rules, **more: Any) -> list[HostResult]:
        def ask_one(one: Target) -> HostResult:
            own = replace(options[one], trust=_trust(options[one].trust, common.trust))
            return query_all([one], own, rules=replace(rules, verifier=verifiers[one]), **more)[0]

        with ThreadPoolExecutor(max(1, len(targets))) as pool:
            return list(pool.map(ask_one, targets))

    not_before = [Floor(build_time_ns(), "TSQ was built")]
    if saved_ns:
        not_before.append(Floor(saved_ns, "the drift file was saved"))
    done = bootstrap(list(options), AdjustOptions(), clock, not_before, ask=ask_each, owner=lambda: None, say=say)
    if done.failed:
        return f"the clock was not set at the start: {done.failed}"
    return (
        f"the clock was stepped by {done.stepped:+z.3f} s at the start" if done.stepped else "the clock needed no step at the start"
    )


def _trust(own: Trust, wanted: Trust) -> Trust:
    """The source's own trust, for the time or without the check that the bootstrap wants."""
    if own.pins:
        # A pinned key does not depend on the time.
        return own
    if wanted.insecure:
        return wanted
    return own if wanted.valid_at is None else replace(own, valid_at=wanted.valid_at)
