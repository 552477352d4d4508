"""tsq-adjtime: ask servers for the time, and set the clock once (docs/reference/tsq-adjtime.md)."""

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import tsq
from tsq import report
from tsq.adjtime import AdjustOptions, Ask, Change, Interruptions, Measurement, Owner, measure, perform
from tsq.bootstrap import Floor, bootstrap
from tsq.cli.common import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, checked, key_log
from tsq.client import query_all
from tsq.config import DEFAULT_PORT, ClientOptions, Target, Trust, parse_pin, parse_port, parse_target
from tsq.errors import ClockError, ConfigError, NotPermitted
from tsq.host import saved_time
from tsq.host.clock import ClockState, SystemClock, build_time_ns
from tsq.host.owner import clock_owner
from tsq.timing.adjustment import ClockLimits, Refusal, Refuse, Slew, Step
from tsq.timing.selection import Criteria

PROGRAM = "tsq-adjtime"
EXIT_NO_ANSWER = 3
EXIT_NO_TIME = 8
EXIT_TOO_FAR = 9
EXIT_OWNED = 10
EXIT_NOT_PERMITTED = 11
EXIT_STEPPED = 12
EXIT_BOOTSTRAP = 13
_STATUS = {
    Refusal.NO_TIME: EXIT_NO_TIME,
    Refusal.TOO_FAR: EXIT_TOO_FAR,
    Refusal.STEPPED: EXIT_STEPPED,
    Refusal.OWNED: EXIT_OWNED,
    Refusal.NOT_PERMITTED: EXIT_NOT_PERMITTED,
    Refusal.INTERRUPTED: EXIT_INTERRUPTED,
}
_ADVICE = {
    Refusal.NO_TIME: "ask more servers, or see above which of them cannot be used",
    Refusal.TOO_FAR: "if the offset is right, use --force",
    Refusal.STEPPED: "find out who did, then try again",
    Refusal.OWNED: "it would set the clock against you: stop it first, or let it do the work",
    Refusal.NOT_PERMITTED: "run it as root, or with CAP_SYS_TIME",
}
_DEFAULTS = ClientOptions()
_LIMITS = ClockLimits()
_CRITERIA = Criteria()
_CONFIRM = "--i-know-this-is-insecure"
_EPILOG = """exit status: 0 the clock was set (or would have been, with --dry-run); 1 a failure; 2 usage; 3 no server gave the time;
8 the servers do not agree; 9 the offset is over the limit; 10 another program keeps the clock; 11 not permitted; 12 somebody else
set the clock meanwhile; 13 --bootstrap failed; 130 interrupted. The clock is as it was, unless the status is 0."""


def main(arguments: Sequence[str] | None = None, clock: SystemClock | None = None, owner: Owner = clock_owner) -> int:
    """Run the command; its exit status. clock: this machine's, unless another one is given; owner: finds who keeps it."""
    parser = _parser()
    values = parser.parse_args(arguments)
    try:
        _check(values)
        options = _options(values)
        targets = [parse_target(text, values.port) for text in values.host]
        ask = partial(query_all, key_log=key_log(PROGRAM))
    except ConfigError as error:
        parser.error(str(error))
    if values.insecure:
        _say(f"warning: --insecure {_CONFIRM}: anybody on the way can set this clock")
    run = _Run(targets, options, clock or SystemClock(), ask, owner)
    with run.interruptions.caught():
        try:
            status = run.bootstrap(values.state_file) if values.bootstrap else run.once()
        except KeyboardInterrupt:
            _say("interrupted: the clock is as it was")
            return EXIT_INTERRUPTED
        except ClockError as error:
            _say(str(error))
            return EXIT_NOT_PERMITTED if isinstance(error, NotPermitted) else EXIT_FAILED
    if status == EXIT_OK and values.state_file and not values.dry_run:
        saved_time.save(values.state_file, run.clock.now_ns(), _say)
    return status


class _Run:
    """One run of the command."""

    def __init__(self, targets: list[Target], options: AdjustOptions, clock: SystemClock, ask: Ask, owner: Owner) -> None:
        self.clock = clock
        self.interruptions = Interruptions()
        self._targets = targets
        self._options = options
        self._doors: dict[str, Any] = {"interruptions": self.interruptions, "ask": ask, "owner": owner}

    def once(self) -> int:
        """Measure, and set the clock."""
        found = measure(self._targets, self._options, self.clock, **self._doors)
        _print_measurement(found, self._options)
        return self._act(found)

    def bootstrap(self, state_file: str | None) -> int:
        """Set a clock that may be wrong by decades."""
        floors = [Floor(build_time_ns(), "TSQ was built")]
        saved = saved_time.load(state_file, _say) if state_file else None
        if saved is not None:
            floors.append(Floor(saved, f"the time was saved in {state_file}"))
        done = bootstrap(self._targets, self._options, self.clock, floors, say=_say, **self._doors)
        _print_measurement(done.measurement, self._options)
        if done.failed:
            _say(f"bootstrap failed, {done.failed}")
            return EXIT_BOOTSTRAP
        if done.stepped:
            print(f"stepped by {done.stepped:+.6f} s; the servers' certificates are valid by the new clock")
        return self._act(done.measurement)

    def _act(self, found: Measurement) -> int:
        action = found.action
        if isinstance(action, Refuse):
            _refuse(action)
            nobody = action.reason is Refusal.NO_TIME and not any(result.good for result in found.results)
            return EXIT_NO_ANSWER if nobody else _STATUS[action.reason]
        print(f"before: {_kernel(found.before)}")
        if self._options.dry_run:
            print(f"would {_verb(action)} (dry run: nothing was changed)")
            return EXIT_OK
        change = perform(action, self.clock, wait=self._options.wait, interruptions=self.interruptions)
        print(_done(action, change, self._options.wait))
        print(f"after:  {_kernel(change.after)}")
        if change.interrupted:
            _say(f"interrupted: {change.rest:+.6f} s of the slew were given up")
            return EXIT_INTERRUPTED
        return EXIT_OK


def _print_measurement(found: Measurement, options: AdjustOptions) -> None:
    for result in found.results:
        for notice in result.notices:
            _say(f"{result.target}: {report.escaped(notice)}")
        for line in report.rejections(result) if result.error is None else ():
            _say(line)
        if result.error is not None:
            _say(f"{result.target}: {report.escaped(str(result.error))}")
    for line in report.unused(found.selection):
        _say(report.escaped(line))
    table = report.table(found.results, found.selection)
    if not table:
        return
    print(table)
    print(report.LEGEND)
    if found.selection.agreed is not None:
        print(report.redundancy(found.selection, options.client.server_error))
        offset, root_distance = report.agreed_in_microseconds(found.selection.agreed)
        print(f"System clock wrong by {offset:+.6f} ± {root_distance:.6f} seconds")


def _refuse(action: Refuse) -> None:
    detail = f" ({action.detail})" if action.detail else ""
    advice = f": {_ADVICE[action.reason]}" if action.reason in _ADVICE else ""
    _say(f"clock not set: {action.reason}{detail}{advice}")


def _verb(action: Step | Slew) -> str:
    if isinstance(action, Step):
        return f"step by {action.offset:+.6f} s"
    return f"slew by {action.offset:+.6f} s, 99 % of it within {action.seconds} s"


def _done(action: Step | Slew, change: Change, waited: bool) -> str:
    if isinstance(action, Step):
        return f"stepped by {action.offset:+.6f} s"
    if change.interrupted:
        return f"slewed by {action.offset - change.rest:+.6f} s"
    if waited:
        return f"slewed by {action.offset - change.rest:+.6f} s; the kernel goes on with the rest"
    return f"slewing by {action.offset:+.6f} s: the kernel does it, 99 % within {action.seconds} s"


def _kernel(state: ClockState) -> str:
    """What the kernel says of its clock."""
    mark = "synchronized" if state.synchronized else "unsynchronized"
    return (
        f"kernel: {mark}, maxerror {state.max_error:.6f} s, esterror {state.estimated_error:.6f} s, "
        f"frequency {state.frequency_ppm:+.3f} ppm, slewing {state.rest:+.6f} s"
    )


def _check(values: argparse.Namespace) -> None:
    """What options must not stand together, or alone."""
    if values.insecure and not values.confirmed:
        raise ConfigError(
            "--insecure: whoever answers would set this machine's clock", advice=f"measure with tsq-client, or add {_CONFIRM}"
        )
    if values.confirmed and not values.insecure:
        raise ConfigError(f"{_CONFIRM} without --insecure", expected="both or none")
    if values.bootstrap and (values.insecure or values.pin):
        raise ConfigError("--bootstrap together with --insecure or --pin", expected="one of them")


def _options(values: argparse.Namespace) -> AdjustOptions:
    client = ClientOptions(
        count=values.count,
        interval=values.interval,
        timeout=values.timeout,
        family=values.family,
        trust=Trust(ca_file=values.ca, insecure=values.insecure, pins=tuple(values.pin)),
        server_name=values.server_name,
        stream=values.stream,
        server_error=values.server_error,
    )
    limits = ClockLimits(step=values.step, panic=values.panic, force=values.force)
    criteria = Criteria(min_sources=values.min_sources)
    return AdjustOptions(client, limits, criteria, dry_run=values.dry_run, wait=values.wait)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        PROGRAM, description="Ask servers for the time over QUIC (TSQ), and set this machine's clock once.", epilog=_EPILOG
    )
    add = parser.add_argument
    add("host", nargs="+", metavar="HOST", help="HOST, HOST:PORT, IPv6 or [IPv6]:PORT; at least four can outvote a liar in peace")
    add("--dry-run", action="store_true", help="measure, and say what would be done")
    add("--step", type=float, default=_LIMITS.step, metavar="S", help="step from this offset on, slew below (default: %(default)s)")
    add("--panic", type=float, default=_LIMITS.panic, metavar="S", help="refuse from this offset on (default: %(default)s)")
    add("--force", action="store_true", help="set the clock whatever the offset is")
    add("--wait", action="store_true", help="stay until 99 percent of a slew are done; interrupted, give up the rest")
    add(
        "--min-sources",
        type=int,
        default=_CRITERIA.min_sources,
        metavar="N",
        help="refuse where fewer servers can be used (default: %(default)s)",
    )
    add("--port", type=checked(parse_port), default=DEFAULT_PORT, help="UDP port where HOST has none (default: %(default)s)")
    add("--count", type=int, default=_DEFAULTS.count, metavar="N", help="samples of each host (default: %(default)s)")
    add("--interval", type=float, default=_DEFAULTS.interval, metavar="S", help="seconds between samples (default: %(default)s)")
    add(
        "--timeout",
        type=float,
        default=_DEFAULTS.timeout,
        metavar="S",
        help="seconds to wait for the handshake, and for each answer (default: %(default)s)",
    )
    add(
        "--server-error",
        type=float,
        default=_DEFAULTS.server_error,
        metavar="S",
        help="a server's own error, where it does not tell (default: %(default)s)",
    )
    _add_trust(parser)
    add("--stream", action="store_true", help="Stream Mode: requests on QUIC streams in place of datagrams")
    add("--version", action="version", version=f"{PROGRAM} {tsq.__version__}")
    return parser


def _add_trust(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    family = parser.add_mutually_exclusive_group()
    family.add_argument("-4", dest="family", action="store_const", const=4, default=0, help="IPv4 only")
    family.add_argument("-6", dest="family", action="store_const", const=6, help="IPv6 only")
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca", metavar="FILE", help="trust the authorities in this PEM file, in place of the system's")
    trust.add_argument(
        "--pin",
        action="append",
        type=checked(parse_pin),
        default=[],
        metavar="sha256//BASE64",
        help="trust servers with this public key, whatever their certificates say; repeats",
    )
    trust.add_argument("--insecure", action="store_true", help="do not check certificates (for tests only)")
    add(_CONFIRM, dest="confirmed", action="store_true", help="what --insecure needs to set a clock")
    add("--server-name", metavar="NAME", help="name that the certificate must have (default: HOST)")
    add("--bootstrap", action="store_true", help="for a clock that is wrong by years: check certificates for the servers' time")
    add("--state-file", metavar="FILE", help="keep the time here; --bootstrap believes no time before it")


def _say(text: str) -> None:
    sys.stderr.write(f"{PROGRAM}: {text}\n")


if __name__ == "__main__":
    sys.exit(main())
