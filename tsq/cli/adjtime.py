"""tsq-adjtime: ask servers for the time, and set the clock once (docs/reference/tsq-adjtime.md)."""

import argparse
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from math import ceil
from typing import Any, TextIO

import tsq
from tsq.cli import streams
from tsq.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    cannot_use,
    checked,
    key_log,
    write_no_more,
)
from tsq.cli.numbers import negatives_joined, number, whole_number
from tsq.cli.parsers import Parser, add_hosts, add_signatures, add_stream, add_trust, check_signatures
from tsq.client.blocking import query_all
from tsq.client.exchange import Checks
from tsq.errors import AlreadyRunning, ClockError, ConfigError, NotMoved, NotPermitted
from tsq.host import saved_time, shortage
from tsq.host.clock import SystemClock, build_time_ns
from tsq.host.clock_readings import ClockState
from tsq.host.keepers.owner import clock_owner
from tsq.oneshot.adjtime import AdjustOptions, Ask, Change, Interruptions, Measurement, Owner, measure, perform, slewing
from tsq.oneshot.bootstrap import LEAST_SERVERS, Floor, bootstrap
from tsq.options import ClientOptions, Target, Trust, parse_target
from tsq.quic.tls import check_trust
from tsq.report import plain, spans, text
from tsq.settings import for_command_line
from tsq.timing.adjustment import MAX_SLEW, OSCILLATOR_PPM, ClockLimits, LeaveAlone, Refusal, Slew, Step
from tsq.timing.selection import Criteria

PROGRAM = "tsq-adjtime"
EXIT_NO_ANSWER = 3
EXIT_NO_TIME = 8
EXIT_TOO_FAR = 9
EXIT_OWNED = 10
EXIT_NOT_PERMITTED = 11
EXIT_STEPPED = 12
EXIT_BOOTSTRAP = 13
EXIT_NOT_MOVED = 14
EXIT_RUNNING = 15
_STATUS = {
    Refusal.NO_ANSWER: EXIT_NO_ANSWER,
    Refusal.NO_TIME: EXIT_NO_TIME,
    Refusal.TOO_FAR: EXIT_TOO_FAR,
    Refusal.STEPPED: EXIT_STEPPED,
    Refusal.SLEWED: EXIT_STEPPED,
    Refusal.OWNED: EXIT_OWNED,
    Refusal.NOT_PERMITTED: EXIT_NOT_PERMITTED,
    Refusal.INTERRUPTED: EXIT_INTERRUPTED,
}
_ADVICE = {
    Refusal.NO_ANSWER: "see above why",
    Refusal.NO_TIME: "ask more servers, or see above which of them cannot be used",
    Refusal.TOO_FAR: "if the offset is right, use --force",
    Refusal.STEPPED: "find out which program did, then try again",
    Refusal.SLEWED: "find out which one does, then try again",
    Refusal.OWNED: "stop it first, or let it set the clock",
    Refusal.NOT_PERMITTED: "run it as root, or with CAP_SYS_TIME, where no filter of system calls forbids clock_adjtime",
}
_DEFAULTS = ClientOptions()
_LIMITS = ClockLimits()
_CRITERIA = Criteria()
_CONFIRM = "--i-know-this-is-insecure"
_NUMBERS = ("--step", "--panic", "--min-sources", "--port", "--count", "--interval", "--timeout", "--server-error")
_BOOTSTRAP_HELP = f"for a clock that is wrong by years: check certificates for the servers' time; at least {LEAST_SERVERS} hosts"
_CLAIMS = "these are claims: the servers' certificates were not checked, the answers may be forged"
_EXAMPLES = (
    ("tsq-adjtime --dry-run time-a.example time-b.example time-c.example", "only look: measure, and say what would be done"),
    ("tsq-adjtime time-a.example time-b.example time-c.example", "set the clock, as root"),
    ("tsq-adjtime --wait time-a.example time-b.example time-c.example", "stay until the clock is right, and check it"),
    (
        "tsq-adjtime --bootstrap --state-file /var/lib/tsq/time time-a.example time-b.example time-c.example",
        "at boot, on a machine whose clock may be wrong by years",
    ),
)
_EPILOG = """exit status: 0 the clock was set, or could be by the time that the servers gave (--dry-run); 1 a failure; 2 usage;
3 no server gave the time; 8 the servers give no time that can be trusted; 9 the offset is over the limit; 10 another program keeps
the clock; 11 not permitted; 12 somebody else set or slewed the clock meanwhile; 13 --bootstrap failed; 14 the clock did not move
by what it was set by, or another program moved it; 15 another tsq-adjtime, or tsqd, is at work; 130 interrupted. With any but 0
the clock is as it was, but for the part that a slew had done when it was interrupted (130) or given up (14), and for a step of
--bootstrap that was confirmed before."""
_ERRORS = {NotPermitted: EXIT_NOT_PERMITTED, NotMoved: EXIT_NOT_MOVED, AlreadyRunning: EXIT_RUNNING}


@for_command_line()
def main(arguments: Sequence[str] | None = None, clock: SystemClock | None = None, owner: Owner = clock_owner) -> int:
    """Run the command; its exit status. clock: this machine's, unless another one is given; owner: finds who keeps it."""
    parser = _parser()
    values = parser.parse_args(negatives_joined(sys.argv[1:] if arguments is None else arguments, _NUMBERS))
    try:
        _check(values)
        options = _options(values)
        targets = [parse_target(text, values.port) for text in values.host]
    except ConfigError as error:
        parser.error(str(error))
    try:
        check_trust(options.client.trust, options.client.timeout)
        options = replace(options, verifier=_verifier(values))
    except ConfigError as error:
        cannot_use(parser, error)
    shortage.allow_open_files(shortage.files_for(len(targets)))
    ask = partial(query_all, key_log=key_log(PROGRAM))
    if values.insecure:
        _say(f"warning: --insecure {_CONFIRM}: anyone on the network path can set this clock")
    run = _Run(targets, options, clock or SystemClock(), ask, owner)
    with run.interruptions.caught():
        try:
            with run.alone() as warning:
                if warning:
                    _say(f"warning: {warning}")
                status = run.bootstrap(values.state_file) if values.bootstrap else run.once()
        except KeyboardInterrupt:
            _say("interrupted: the clock is as it was")
            return EXIT_INTERRUPTED
        except ClockError as error:
            _say(str(error))
            return _ERRORS.get(type(error), EXIT_FAILED)
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
        self._tools: dict[str, Any] = {"interruptions": self.interruptions, "ask": ask, "owner": owner, "say": _say}

    def alone(self) -> AbstractContextManager[str]:
        """Hold the lock, where this run can set the clock at all."""
        return nullcontext("") if self._options.dry_run or not self.clock.may_set else self.clock.alone()

    def once(self) -> int:
        """Measure, and set the clock."""
        found = measure(self._targets, self._options, self.clock, **self._tools)
        _print_measurement(found, self._options)
        return self._act(found)

    def bootstrap(self, state_file: str | None) -> int:
        """Set a clock that may be wrong by decades."""
        not_before = [Floor(build_time_ns(), "TSQ was built")]
        saved = saved_time.load(state_file, _say) if state_file else None
        if saved is not None:
            not_before.append(Floor(saved, f"the time was saved in {state_file}"))
        done = bootstrap(self._targets, self._options, self.clock, not_before, **self._tools)
        if done.failed:
            # An agreement that was not confirmed is no result.
            _print_table(done.measurement, "" if done.checked else _CLAIMS)
            _say(f"bootstrap failed, {done.failed}")
            return EXIT_BOOTSTRAP
        if done.stepped:
            _print(f"before: {_kernel(done.measurement.before)}")
            _print(f"stepped by {_signed(done.stepped)}; the servers' certificates are valid by the new clock:")
        _print_measurement(done.measurement, self._options)
        return self._act(done.measurement, before_printed=bool(done.stepped))

    def _again(self) -> Measurement:
        return measure(self._targets, slewing(self._options), self.clock, **self._tools)

    def _act(self, found: Measurement, before_printed: bool = False) -> int:
        action = found.action
        if found.selection.agreed is not None and not before_printed:
            _print(f"before: {_kernel(found.before)}")
        if isinstance(action, LeaveAlone):
            _say(f"clock not set: {_why(action)}")
            return _STATUS[action.reason]
        if self._options.dry_run:
            _print(f"would {_verb(action)} (dry run: nothing was changed)")
            for refusal in found.hindrances:
                _say(f"without --dry-run it would be refused, exit status {_STATUS[refusal.reason]}: {_why(refusal)}")
            return EXIT_OK
        again = self._again if self._options.wait else None
        change = perform(action, self.clock, measured=found, again=again, interruptions=self.interruptions)
        _print(_done(action, change))
        if change.last is not None:
            _print(f"measured again: {_wrong_by(change.last)}")
        _print(f"after:  {_kernel(change.after)}")
        _print(f"drift:  {_drift(found, change)}")
        if change.interrupted:
            _say(f"interrupted: {_signed(change.left)} of the slew were given up; the clock was not measured again")
            return EXIT_INTERRUPTED
        return EXIT_OK


def _print_measurement(found: Measurement, options: AdjustOptions) -> None:
    _print_table(found)
    if found.selection.agreed is not None:
        _print(text.redundancy(found.selection, options.client.server_error))
        _print(_wrong_by(found))


def _wrong_by(found: Measurement) -> str:
    assert found.selection.agreed is not None
    return f"System clock wrong by {text.agreed_within(found.selection.agreed)}"


def _print_table(found: Measurement, note: str = "") -> None:
    """Print what each server reported. note: what the reader of the table must know."""
    for result in found.results:
        for notice in result.notices:
            _say(f"{result.target}: {spans.escaped(notice)}")
        for line in text.rejections(result) if result.error is None else ():
            _say(line)
        if result.error is not None:
            _say(f"{result.target}: {spans.escaped(str(result.error))}")
    for line in text.unused(found.selection):
        _say(spans.escaped(line))
    table = text.table(found.results, found.selection, streams.columns(), plain=streams.is_plain(sys.stdout))
    if table:
        _print(table)
        _print(text.FULL_LEGEND if text.is_full(table) else text.LEGEND)
        if note:
            _print(note)


def _why(refusal: LeaveAlone) -> str:
    """Why the clock was not set, and what a user can do about it."""
    advice = f": {_ADVICE[refusal.reason]}" if refusal.reason in _ADVICE else ""
    return f"{refusal.text}{advice}"


def _verb(action: Step | Slew) -> str:
    if isinstance(action, Step):
        return f"step by {_signed(action.offset)}"
    return f"slew by {_signed(action.offset)}, 99 % of it within {action.seconds} s"


def _done(action: Step | Slew, change: Change) -> str:
    if isinstance(action, Step):
        return f"stepped by {_signed(action.offset)}"
    if change.moved is not None:
        return f"slewed by {_signed(change.moved)}"
    if change.interrupted:
        return f"slewed by {_signed(action.offset - change.left)}"
    return f"slewing by {_signed(action.offset)}: the kernel does it, 99 % within {action.seconds} s, and the result is not checked"


def _drift(found: Measurement, change: Change) -> str:
    """How fast the clock that was set may drift."""
    drift = change.drift or found.drift
    if drift is not None and drift.useful:
        seen, most = f"measured as {drift.ppm:+z.1f} ± {drift.error_ppm:.1f} ppm within {drift.seconds:.1f} s", drift.most_ppm
        why = ""
    else:
        frequency = change.after.rate * 1e6
        seen, most = "not measured", OSCILLATOR_PPM + abs(frequency)
        why = f" (kernel frequency {frequency:+z.3f} ppm; typical oscillators are off by up to {OSCILLATOR_PPM:.0f} ppm)"
    return f"{seen}; no program keeps this clock: expect it to drift by up to {ceil(most)} µs a second{why}"


def _kernel(state: ClockState | None) -> str:
    """The kernel's report on its clock."""
    if state is None:
        return "kernel: cannot be read (clock_adjtime is refused, as by a container's filter of system calls)"
    mark = "synchronized" if state.synchronized else "unsynchronized"
    tick = f", tick {state.tick_ppm:+z.0f} ppm" if state.tick_ppm else ""
    return (
        f"kernel: {mark}, maxerror {spans.duration(state.max_error)}, "
        f"esterror {spans.duration(state.estimated_error)}, frequency {state.frequency_ppm:+z.3f} ppm{tick}, "
        f"slewing {_signed(state.pending)}"
    )


def _signed(seconds: float) -> str:
    """With a sign, and no negative zero."""
    return spans.duration(round(seconds, 9) + 0.0, signed=True)


def _check(values: argparse.Namespace) -> None:
    """Refuse options that exclude or need each other."""
    if values.bootstrap and values.insecure:
        raise ConfigError("--bootstrap together with --insecure", advice="use one of them; only --bootstrap checks certificates")
    if values.bootstrap and values.pin:
        raise ConfigError("--bootstrap together with --pin", advice="omit --bootstrap; a pinned key does not depend on the time")
    check_signatures(values)
    if values.insecure and not values.confirmed:
        raise ConfigError(
            "--insecure would let any server set this machine's clock", advice=f"measure with tsq-client, or add {_CONFIRM}"
        )
    if values.confirmed and not values.insecure:
        raise ConfigError(f"{_CONFIRM} without --insecure", expected="both or none")


def _verifier(values: argparse.Namespace) -> Checks | None:
    """What checks signatures; None where none are asked for. Raises ConfigError."""
    if not values.require_signature:
        return None
    from tsq.host.key_files import load_verifier  # noqa: PLC0415 - loaded only where it is used

    return load_verifier(values.verify_key)


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


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        ["[options] HOST [HOST ...]"],
        "Ask servers for the time over QUIC (TSQ), and set this machine's clock once.",
        _EPILOG,
        _EXAMPLES,
    )
    add = parser.add_argument
    add_hosts(parser, "three outvote a liar, four also where one is silent")
    add("--dry-run", action="store_true", help="measure, and say what would be done; needs no privilege")
    seconds, whole = checked(number), checked(whole_number)
    add(
        "--step",
        type=seconds,
        default=_LIMITS.step,
        metavar="S",
        help=f"step over this offset, else slew; 0 to {MAX_SLEW} (default: %(default)s)",
    )
    add("--panic", type=seconds, default=_LIMITS.panic, metavar="S", help="refuse over this offset (default: %(default)s)")
    add("--force", action="store_true", help="set the clock whatever the offset is")
    add("--wait", action="store_true", help="stay until a slew is done, check it and measure again; interrupted, give up the rest")
    add(
        "--min-sources",
        type=whole,
        default=_CRITERIA.min_sources,
        metavar="N",
        help="refuse where fewer servers can be used (default: %(default)s)",
    )
    add("--count", type=whole, default=_DEFAULTS.count, metavar="N", help="samples of each host (default: %(default)s)")
    add("--interval", type=seconds, default=_DEFAULTS.interval, metavar="S", help="seconds between samples (default: %(default)s)")
    add(
        "--server-error",
        type=seconds,
        default=_DEFAULTS.server_error,
        metavar="S",
        help="own error, in seconds, to assume for a server that does not report it (default: %(default)s); a server that "
        "does not answer the question about its clock is never used",
    )
    add_trust(parser, pins=True)
    add_signatures(parser)
    add(_CONFIRM, dest="confirmed", action="store_true", help="what --insecure needs to set a clock")
    add("--bootstrap", action="store_true", help=_BOOTSTRAP_HELP)
    add("--state-file", metavar="FILE", help="keep the time here; --bootstrap believes no time before it")
    add_stream(parser)
    add("--version", action="version", version=f"{PROGRAM} {tsq.__version__}", help="print the version and exit")
    return parser


def _print(text: str) -> None:
    _write(sys.stdout, text)


def _say(text: str) -> None:
    _write(sys.stderr, f"{PROGRAM}: {text}")


def _write(stream: TextIO, text: str) -> None:
    """Flush each line, so that a log of both streams has the order of events."""
    try:
        print(text, file=stream, flush=True)
    except OSError:
        # A lost line must not leave the clock half set.
        write_no_more(stream)
    except UnicodeError:
        # Nor must an encoding without "±".
        print(text.encode("ascii", plain.ERRORS).decode(), file=stream, flush=True)


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.adjtime())
