"""tsq-client: ask servers for the time, and print the offset and its bound (docs/reference/cli.md)."""

import argparse
import sys
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, TextIO

import tsq
from tsq.cli import streams
from tsq.cli.common import (
    EXIT_FAILED,
    EXIT_INTERRUPTED,
    EXIT_OK,
    EXIT_USAGE,
    cannot_use,
    checked,
    key_log,
    usable_session_file,
)
from tsq.cli.numbers import bare_joined, negatives_joined, number, whole_number
from tsq.cli.parsers import Parser, add_hosts, add_precision, add_signatures, add_stream, add_trust
from tsq.client.blocking import query_all
from tsq.client.exchange import Rules
from tsq.client.result import HostResult, selection
from tsq.errors import (
    AlpnRefused,
    CertificateError,
    ConfigError,
    HandshakeTimeout,
    NameNotFound,
    NoAnswer,
    NothingListens,
    RejectedSamples,
    TSQError,
    Unreachable,
    rank,
)
from tsq.host import shortage
from tsq.host.clock import clock_reading
from tsq.options import ClientOptions, Precision, Target, Trust, parse_target
from tsq.quic.tls import check_trust
from tsq.report import spans, text
from tsq.settings import for_command_line
from tsq.timing.local_clock import ClockReading
from tsq.timing.sample import Sample
from tsq.timing.selection import Selection

if TYPE_CHECKING:
    from tsq.cli.proofs import Proofs

PROGRAM = "tsq-client"
EXIT_NO_ANSWER = 3
EXIT_CERTIFICATE = 4
EXIT_NAME = 5
EXIT_REJECTED = 6
EXIT_NOT_TSQ = 7
EXIT_NO_MAJORITY = 8
_STATUS: tuple[tuple[type[TSQError], int], ...] = (
    (CertificateError, EXIT_CERTIFICATE),
    (NameNotFound, EXIT_NAME),
    (NothingListens, EXIT_NO_ANSWER),
    (Unreachable, EXIT_NO_ANSWER),
    (HandshakeTimeout, EXIT_NO_ANSWER),
    (NoAnswer, EXIT_NO_ANSWER),
    (RejectedSamples, EXIT_REJECTED),
    (AlpnRefused, EXIT_NOT_TSQ),
    (ConfigError, EXIT_USAGE),
)
_LONG_RUN = 10
_DEFAULTS = ClientOptions()
# With --watch, where the command line says nothing else.
_WATCH_COUNT, _WATCH_INTERVAL = 1_000_000, 1.0
_NUMBERS = ("--port", "--count", "--interval", "--timeout", "--server-error")
_EXAMPLES = (
    ("tsq-client time-a.example time-b.example time-c.example", "compare three servers: one that lies is named"),
    ("tsq-client 127.0.0.1:4433 --ca lab/ca.pem -v", "a server with a certificate of your own; all columns, and each sample"),
    ("tsq-client --watch time.example", "show the offset until Ctrl-C"),
    ("tsq-client --json --count 10 time.example", "one JSON object, for programs"),
)
_EPILOG = """exit status: 0 every host gave the time; 1 some hosts did, or another failure; 2 usage; 3 no answer; 4 certificate
refused; 5 name not found; 6 all answers rejected; 7 the server does not speak TSQ; 8 hosts gave the time, but no majority agrees or
none may be used; 130 interrupted. The clock is never set."""


@for_command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    given = bare_joined(sys.argv[1:] if arguments is None else arguments, "--precision", Precision.ASK)
    values = parser.parse_args(negatives_joined(given, _NUMBERS))
    options, targets, proofs = _usable(parser, values)
    secrets = key_log(PROGRAM)
    options = replace(options, session_file=usable_session_file(PROGRAM, values.session_file))
    shortage.allow_open_files(shortage.files_for(len(targets)))
    if values.insecure:
        _say("warning: --insecure: the servers' certificates are not checked; the answers may be forged")
    if values.chain and proofs is not None:
        return _ask_in_turn(proofs, targets, options)
    results = _ask(values, targets, options, proofs, secrets)
    if results is None:
        return EXIT_INTERRUPTED
    # Results are for the time of printing, not for that of a sample.
    now = clock_reading()
    chosen = selection(results, now=now)
    if values.json:
        import json  # noqa: PLC0415 - loaded only where it is used

        from tsq.report.document import document  # noqa: PLC0415

        print(json.dumps(document(results, chosen, tsq.__version__, now)))
    else:
        _print(results, chosen, values, options, now)
    sys.stdout.flush()
    lost = EXIT_OK if proofs is None else proofs.end(_say)
    return lost or _plot(chosen, values.plot) or _status(results, chosen)


def _usable(parser: Parser, values: argparse.Namespace) -> tuple[ClientOptions, list[Target], "Proofs | None"]:
    """What the command line says, checked. Ends the program where something cannot be used."""
    signed = values.require_signature or values.verify_key or values.audit_log is not None or values.chain
    try:
        options = _options(values)
        targets = [parse_target(text, values.port) for text in values.host]
        if values.watch and values.json:
            raise ConfigError("--watch together with --json", expected="one of them")
        if signed:
            from tsq.cli import proofs  # noqa: PLC0415 - loaded only where it is used

            proofs.check(values, targets)
    except ConfigError as error:
        parser.error(str(error))
    try:
        if values.plot is not None:
            from tsq.report import chart  # noqa: PLC0415 - loaded only where it is used

            chart.check(values.plot)
        check_trust(options.trust, options.timeout)
        return options, targets, proofs.Proofs(values) if signed else None
    except ConfigError as error:
        cannot_use(parser, error)


def _ask(
    values: argparse.Namespace, targets: list[Target], options: ClientOptions, proofs: "Proofs | None", secrets: TextIO | None
) -> list[HostResult] | None:
    """Ask all hosts in parallel; None where a second Ctrl-C came."""
    progress = _Progress(len(targets) * options.count, options, quiet=values.json or values.watch)
    watch = None
    if values.watch:
        from tsq.cli.watch import Watch  # noqa: PLC0415

        watch = Watch(options.interval, options.server_error)
    try:
        return query_all(
            targets,
            options,
            rules=None if proofs is None else Rules(verifier=proofs.verifier),
            on_sample=progress.count,
            on_change=None if watch is None else watch.changed,
            key_log=secrets,
            persistent=values.watch,
            on_exchange=None if proofs is None else proofs.keep,
        )
    except KeyboardInterrupt:
        # A second Ctrl-C, while the first one was handled.
        return None
    finally:
        progress.clear()
        if watch is not None:
            watch.clear()


def _print(
    results: list[HostResult], chosen: Selection, values: argparse.Namespace, options: ClientOptions, now: ClockReading
) -> None:
    for result, verdict in zip(results, chosen.verdicts, strict=True):
        for notice in result.notices:
            # Ctrl-C is the usual end of --watch.
            if not (values.watch and notice.endswith(": stopped")):
                _say(f"{result.target}: {spans.escaped(notice)}")
        if values.verbose:
            print(f"{result.target} ({result.address or 'no address'})")
            print("\n".join(text.sample_lines(result)) or "  no samples")
            if said := text.claims_line(verdict):
                print(said)
        elif result.error is None and not values.watch:
            for line in text.rejections(result):
                _say(line)
        if values.metadata and result.good:
            print("\n".join(text.metadata_lines(result)))
    for result in results:
        if result.error is not None:
            _say(f"{result.target}: {spans.escaped(str(result.error))}")
    _print_result(results, chosen, options.server_error, now, full=values.verbose)


def _print_result(results: list[HostResult], chosen: Selection, assumed_error: float, now: ClockReading, *, full: bool) -> None:
    for notice in text.clock_notices(chosen, now):
        _say(notice)
    table = text.table(results, chosen, streams.columns(), full=full, plain=streams.is_plain(sys.stdout))
    if table:
        print(table)
        for line in [*text.legend(chosen, table), *text.unused(chosen, failed=True), text.redundancy(chosen, assumed_error)]:
            if line:
                print(line)
        print(text.verdict(chosen))


def _plot(chosen: Selection, path: str | None) -> int:
    """Draw the picture; the exit status, EXIT_OK on success."""
    if path is None:
        return EXIT_OK
    from tsq.report import chart  # noqa: PLC0415

    try:
        chart.draw(chosen, path)
    except ConfigError as error:
        _say(str(error))
        return EXIT_USAGE if any(verdict.interval for verdict in chosen.verdicts) else EXIT_OK
    return EXIT_OK


def _status(results: list[HostResult], chosen: Selection) -> int:
    failures = [result.error for result in results if result.error is not None]
    if len(failures) < len(results) and chosen.agreed is None:
        return EXIT_NO_MAJORITY
    if not failures:
        return EXIT_OK
    if len(failures) < len(results):
        return EXIT_FAILED
    if any(isinstance(failure, NoAnswer) and failure.found.startswith("stopped") for failure in failures):
        return EXIT_INTERRUPTED
    return _status_of(min(failures, key=rank))


def _status_of(error: TSQError) -> int:
    return next((status for kind, status in _STATUS if isinstance(error, kind)), EXIT_FAILED)


def _options(values: argparse.Namespace) -> ClientOptions:
    return ClientOptions(
        count=values.count if values.count is not None else _WATCH_COUNT if values.watch else _DEFAULTS.count,
        interval=values.interval if values.interval is not None else _WATCH_INTERVAL if values.watch else _DEFAULTS.interval,
        timeout=values.timeout,
        family=values.family,
        trust=Trust(ca_file=values.ca, insecure=values.insecure),
        server_name=values.server_name,
        stream=values.stream,
        session_file=values.session_file,
        server_error=_DEFAULTS.server_error if values.server_error is None else values.server_error,
        accept_unknown=values.server_error is not None,
        precision=values.precision,
    )


def _ask_in_turn(proofs: "Proofs", targets: list[Target], options: ClientOptions) -> int:
    """Ask for a chain; the exit status."""
    try:
        proofs.ask_in_turn(targets, options)
    except TSQError as error:
        _say(str(error))
        return proofs.end(_say) or _status_of(error)
    return proofs.end(_say)


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        ["[options] HOST [HOST ...]"],
        "Ask servers for the time over QUIC (TSQ), and print the clock's offset.",
        _EPILOG,
        _EXAMPLES,
    )
    add_hosts(parser, "several are asked in parallel")
    add, seconds = parser.add_argument, checked(number)
    # None: not given.
    add(
        "--count",
        type=checked(whole_number),
        metavar="N",
        help=f"samples of each host (default: {_DEFAULTS.count}); with --watch all",
    )
    add("--interval", type=seconds, metavar="S", help=f"seconds between samples (default: {_DEFAULTS.interval}); with --watch 1")
    add_trust(parser, pins=False)
    add_stream(parser)
    add_precision(parser)
    add_signatures(parser)
    add("--audit-log", metavar="FILE", help="append each signed exchange to FILE, for tsq-audit")
    add("--chain", action="store_true", help="ask the hosts in turn, so that the answers in the audit log prove their order")
    add("--metadata", action="store_true", help="print what the servers' operators say about them, such as site=us-east")
    add("--session-file", metavar="FILE", help="keep session tickets here, for 0-RTT the next time")
    add(
        "--server-error",
        type=seconds,
        metavar="S",
        help=f"own error, in seconds, to assume for a server that does not report it (default: {_DEFAULTS.server_error}); "
        "with this option, a server that does not answer the question about its clock is used as well",
    )
    add("--watch", action="store_true", help="go on until Ctrl-C, and show what there is so far")
    add(
        "--plot",
        metavar="FILE",
        help="draw the sources' correctness intervals into this file: .png, .svg or .pdf (needs tsq-time[plot])",
    )
    add("--json", action="store_true", help="print one JSON object")
    add("-v", "--verbose", action="store_true", help="print all columns, and each sample's timestamps and who took them")
    add("--version", action=_Version, nargs=0, help="print the version and exit")
    return parser


class _Version(argparse.Action):
    """Prints the version. Looks it up only on request, because that is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{PROGRAM} {tsq.__version__}")
        parser.exit()


class _Progress:
    """Shows the progress of a long run, on a terminal only."""

    def __init__(self, total: int, options: ClientOptions, *, quiet: bool) -> None:
        self._total = total
        self._seen = 0
        self._lock = threading.Lock()
        self._shown = options.count >= _LONG_RUN and not quiet and sys.stdout.isatty() and streams.draws(sys.stderr)

    def count(self, target: Target, sample: Sample) -> None:
        """One more sample."""
        if not self._shown:
            return
        with self._lock:
            self._seen += 1
            offset = "not used" if sample.offset is None or not sample.valid else spans.duration(sample.offset, signed=True)
            sys.stderr.write(f"\r\033[K{self._seen}/{self._total} samples, last {target}: {offset}")
            sys.stderr.flush()

    def clear(self) -> None:
        """Erase the progress line."""
        if self._shown:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def _say(text: str) -> None:
    sys.stderr.write(f"{PROGRAM}: {text}\n")


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.client())
