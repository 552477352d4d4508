"""tsq-keygen: make a key with which a server signs its answers (docs/reference/cli.md)."""

import sys
from collections.abc import Sequence

import tsq
from tsq.cli.common import EXIT_OK, cannot_use, checked
from tsq.cli.numbers import whole_number
from tsq.cli.parsers import Parser
from tsq.errors import ConfigError
from tsq.host.key_files import write_key
from tsq.settings import for_command_line
from tsq.wire.keys import ALGORITHMS, ED25519, make_key

PROGRAM = "tsq-keygen"
_EXAMPLES = (
    ("tsq-keygen /etc/tsq/sign-2026", "a new Ed25519 key, and /etc/tsq/sign-2026.pub for the clients"),
    ("tsq-server --cert cert.pem --key key.pem --sign-key /etc/tsq/sign-2026", "a server that signs with it"),
    ("tsq-client --require-signature --verify-key sign-2026.pub time.example", "a client that asks for it"),
)
_EPILOG = """exit status: 0 the key was written; 2 usage, or a file that exists or cannot be written.

Ed25519 proves to everybody who signed. With hmac-sha256, whoever can check a signature can also make one: give that file to the
clients in secret."""


@for_command_line()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; its exit status."""
    parser = _parser()
    values = parser.parse_args(arguments)
    try:
        key = make_key(values.algorithm, values.id)
        public = write_key(values.file, key)
    except ConfigError as error:
        cannot_use(parser, error)
    print(f"{PROGRAM}: key {key.key_id} ({values.algorithm}) is in {values.file}; clients need {public}")
    return EXIT_OK


def _parser() -> Parser:
    parser = Parser(PROGRAM, ["[options] FILE"], "Make a key with which a server signs its answers.", _EPILOG, _EXAMPLES)
    add = parser.add_argument
    add("file", metavar="FILE", help="new file for the key, mode 0600; FILE.pub is for the clients")
    add("--algorithm", choices=ALGORITHMS, default=ED25519, help="how it signs (default: %(default)s)")
    add("--id", type=checked(whole_number), metavar="N", help="the key's id, 0 to 4294967295 (default: made from the key)")
    add("--version", action="version", version=f"{PROGRAM} {tsq.__version__}", help="print the version and exit")
    return parser


if __name__ == "__main__":
    from tsq.cli import start

    sys.exit(start.keygen())
