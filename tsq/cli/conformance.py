"""tsq-conformance: test a server of any make against the draft (docs/reference/cli.md)."""

import json
import shutil
import sys
from collections.abc import Sequence

from tsq.cli import streams
from tsq.cli.common import EXIT_FAILED, EXIT_OK, EXIT_USAGE, cannot_use
from tsq.cli.parsers import Parser, add_hosts, add_trust, add_version
from tsq.conformance.blocking import examine
from tsq.errors import AlpnRefused, CertificateError, ConfigError, NameNotFound, TSQError
from tsq.host.key_files import load_verifier
from tsq.options import ClientOptions, Trust, parse_target
from tsq.quic.tls import check_trust
from tsq.report import conformance
from tsq.report.plain import in_ascii
from tsq.report.spans import escaped
from tsq.settings import for_command_line

PROGRAM = "tsq-conformance"
EXIT_NO_ANSWER = 3
EXIT_CERTIFICATE = 4
EXIT_NAME = 5
EXIT_NOT_TSQ = 7
EXIT_ADVICE = 8
_STATUS: tuple[tuple[type[TSQError], int], ...] = (
    (CertificateError, EXIT_CERTIFICATE),
    (NameNotFound, EXIT_NAME),
    (AlpnRefused, EXIT_NOT_TSQ),
    (ConfigError, EXIT_USAGE),
)
_EXAMPLES = (
    ("tsq-conformance time.example", "what a server does, statement by statement"),
    ("tsq-conformance 127.0.0.1:4433 --ca lab/ca.pem --json", "a server with a certificate of your own; for programs"),
    ("tsq-conformance time.example --verify-key key.pub", "check its signatures, too"),
)
_EPILOG = """exit status: 0 nothing failed; 1 something failed that is required, or the tests ended early; 2 usage; 3 no answer; 4
certificate refused; 5 name not found; 7 the server does not speak TSQ; 8 only recommendations failed; 130 interrupted. It sends at
most 50 messages a second, for a minute at most."""


@for_command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    values = parser.parse_args(arguments)
    try:
        if len(values.host) > 1:
            raise ConfigError(f"{len(values.host)} hosts", expected="one")
        target = parse_target(values.host[0], values.port)
        trust = Trust(ca_file=values.ca, insecure=values.insecure, pins=tuple(values.pin))
        options = ClientOptions(timeout=values.timeout, family=values.family, trust=trust, server_name=values.server_name)
    except ConfigError as error:
        parser.error(str(error))
    try:
        check_trust(trust, options.timeout)
        verifier = load_verifier(values.verify_key) if values.verify_key else None
    except ConfigError as error:
        cannot_use(parser, error)
    if values.insecure:
        _say("warning: --insecure: the server's certificate is not checked; another server may answer in its place")
    try:
        report = examine(
            target, trust, server_name=options.server_name, family=options.family, timeout=options.timeout, verifier=verifier
        )
    except TSQError as error:
        _say(f"{target}: {escaped(str(error))}")
        return next((status for kind, status in _STATUS if isinstance(error, kind)), EXIT_NO_ANSWER)
    if values.json:
        print(json.dumps(conformance.document(report, str(target))))
    else:
        plain = streams.is_plain(sys.stdout)
        width = shutil.get_terminal_size((132, 24)).columns
        shown = conformance.lines(report, everything=values.all, width=width)
        print("\n".join(in_ascii(line) if plain else line for line in shown))
    if report.unfinished or any(finding.binding for finding in report.failed):
        return EXIT_FAILED
    return EXIT_ADVICE if report.failed else EXIT_OK


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        ["[options] HOST"],
        "Test a TSQ server of any make against the draft, from outside.",
        _EPILOG,
        _EXAMPLES,
    )
    add_hosts(parser, "one server")
    add_trust(parser, pins=True)
    add = parser.add_argument
    add("--verify-key", action="append", default=[], metavar="FILE", help="keys that may sign (from tsq-keygen); repeats")
    add("--all", action="store_true", help="list also the statements that are untested")
    add("--json", action="store_true", help="print one JSON object")
    add_version(parser)
    return parser


def _say(text: str) -> None:
    sys.stderr.write(f"{PROGRAM}: {text}\n")


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.conformance())
