"""tsq-audit: check signed answers that were kept, and what they prove together (docs/reference/audit-log.md)."""

import json
import sys
from collections.abc import Sequence

import tsq
from tsq.audit.examination import DEFAULT_ERROR, examination
from tsq.cli import streams
from tsq.cli.common import EXIT_FAILED, EXIT_OK, cannot_use, checked
from tsq.cli.numbers import number
from tsq.cli.parsers import Parser
from tsq.errors import ConfigError
from tsq.host.audit_file import read_audit
from tsq.host.key_files import load_verifier
from tsq.options import check_number
from tsq.report import audit
from tsq.report.plain import in_ascii
from tsq.settings import for_command_line

PROGRAM = "tsq-audit"
EXIT_CONTRADICTION = 3
_EXAMPLES = (
    ("tsq-client --chain --audit-log log --require-signature --verify-key all.pub a.example b.example", "ask in turn, and keep it"),
    ("tsq-audit log --verify-key all.pub", "check it, without asking anybody"),
)
_EPILOG = """exit status: 0 all records are good, and none contradicts another; 1 records that prove nothing; 2 usage; 3 servers
contradict each other."""


@for_command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    values = parser.parse_args(arguments)
    try:
        if not 0 < check_number("error", values.server_error) <= 1:
            raise ConfigError(f"--server-error {values.server_error}", expected="above 0, at most 1 second")
        verifier = load_verifier(values.verify_key)
        found = examination(read_audit(values.file), verifier, values.server_error)
    except ConfigError as error:
        cannot_use(parser, error)
    if values.json:
        print(json.dumps(audit.document(found)))
    else:
        plain = streams.is_plain(sys.stdout)
        print("\n".join(in_ascii(line) if plain else line for line in audit.lines(found)))
    if found.findings.contradiction:
        return EXIT_CONTRADICTION
    return EXIT_FAILED if found.faults else EXIT_OK


def _parser() -> Parser:
    parser = Parser(
        PROGRAM,
        ["--verify-key FILE [options] FILE"],
        "Check signed answers that were kept, and what they prove.",
        _EPILOG,
        _EXAMPLES,
    )
    add = parser.add_argument
    add("file", metavar="FILE", help="what tsq-client --audit-log wrote")
    add("--verify-key", action="append", required=True, metavar="FILE", help="keys that may sign (from tsq-keygen); repeats")
    add(
        "--server-error",
        type=checked(number),
        default=DEFAULT_ERROR,
        metavar="S",
        help="own error, in seconds, to assume for a server that does not report it (default: %(default)s)",
    )
    add("--json", action="store_true", help="print one JSON object")
    add("--version", action="version", version=f"{PROGRAM} {tsq.__version__}", help="print the version and exit")
    return parser


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.audit())
