"""The parsers' common part: one-line errors, help that ends with examples, and the options that several commands have.

Comes in: a command line. Goes out: its values, or one line on standard error and exit status 2. It must
never take a part of an option's name for the option.
"""

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

import tsq
from tsq.cli.common import EXIT_USAGE, checked
from tsq.cli.numbers import number
from tsq.errors import ConfigError


class Parser(argparse.ArgumentParser):
    """The parser of one command. synopsis: its arguments in one line; examples: command lines, each with what it does."""

    def __init__(
        self, program: str, synopsis: Sequence[str], description: str, epilog: str, examples: Sequence[tuple[str, str]]
    ) -> None:
        shown = "\n".join(f"  {line}\n      {what}" for line, what in examples)
        super().__init__(
            program,
            usage="\n       ".join(f"{program} {line}" for line in synopsis),
            description=description,
            epilog=f"{epilog}\n\nexamples:\n{shown}",
            formatter_class=_Help,
            allow_abbrev=False,
        )
        self.examples = [line for line, _ in examples]

    def parse_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> argparse.Namespace:  # type: ignore[override]
        """Report an unknown option before anything else that is wrong."""
        values: argparse.Namespace
        values, rest = self.parse_known_args(args, namespace)
        unknown = next((argument.partition("=")[0] for argument in rest if argument.startswith("-")), None)
        if unknown is not None:
            from difflib import get_close_matches  # noqa: PLC0415 - loaded only where it is used

            near = get_close_matches(unknown, self._option_string_actions, 1, 0.7)
            self.error(f"unknown option {unknown}" + (f": did you mean {near[0]}?" if near else ""))
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        if getattr(values, "host", None) == []:
            self.error(f"the following arguments are required: HOST (see {self.prog} --help)")
        return values

    def error(self, message: str) -> NoReturn:
        """One line, without the usage."""
        self.exit(EXIT_USAGE, f"{self.prog}: error: {message}\n")


class _Version(argparse.Action):
    """Prints the version. Looks it up only on request, because that is slow."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print(f"{parser.prog} {tsq.__version__}")
        parser.exit()


class _Help(argparse.HelpFormatter):
    """Wraps each paragraph, but keeps the lines of one that has indented lines."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        fill = super()._fill_text
        return "\n\n".join(part if "\n  " in part else fill(part, width, indent) for part in text.split("\n\n"))


def add_hosts(parser: argparse.ArgumentParser, several: str) -> None:
    """Whom to ask, and how long. several: why to name more than one host."""
    from tsq.options import DEFAULT_PORT, ClientOptions, parse_port  # noqa: PLC0415 - tsqctl starts without it

    add, seconds = parser.add_argument, checked(number)
    # "*", so that an unknown option is reported before a missing HOST.
    add("host", nargs="*", metavar="HOST", help=f"HOST, HOST:PORT, IPv6 or [IPv6]:PORT; {several}")
    add("--port", type=checked(parse_port), default=DEFAULT_PORT, help="UDP port where HOST has none (default: %(default)s)")
    add(
        "--timeout",
        type=seconds,
        default=ClientOptions().timeout,
        metavar="S",
        help="seconds to wait for the handshake, and for each answer (default: %(default)s)",
    )
    family = parser.add_mutually_exclusive_group()
    family.add_argument("-4", dest="family", action="store_const", const=4, default=0, help="IPv4 only")
    family.add_argument("-6", dest="family", action="store_const", const=6, help="IPv6 only")


def add_trust(parser: argparse.ArgumentParser, *, pins: bool) -> None:
    """Whom to trust. pins: public keys, too."""
    from tsq.options import parse_pin  # noqa: PLC0415 - tsqctl starts without it

    trust = parser.add_mutually_exclusive_group()
    trust.add_argument("--ca", metavar="FILE", help="trust the authorities in this PEM file, in place of the system's")
    if pins:
        trust.add_argument(
            "--pin",
            action="append",
            type=checked(parse_pin),
            default=[],
            metavar="sha256//BASE64",
            help="trust servers with this public key, whatever their certificates say; repeats",
        )
    trust.add_argument("--insecure", action="store_true", help="do not check certificates (for tests only)")
    parser.add_argument("--server-name", metavar="NAME", help="name that the certificate must have (default: HOST)")


def add_stream(parser: argparse.ArgumentParser) -> None:
    """Stream Mode."""
    parser.add_argument("--stream", action="store_true", help="Stream Mode: requests on QUIC streams in place of datagrams")


def add_signatures(parser: argparse.ArgumentParser) -> None:
    """Signed answers."""
    add = parser.add_argument
    add("--require-signature", action="store_true", help="ask for signed answers, and use no others")
    help_ = "with a public key that may sign (from tsq-keygen); repeats"
    add("--verify-key", action="append", default=[], metavar="FILE", help=help_)


def check_signatures(values: argparse.Namespace) -> None:
    """Raises ConfigError where one of the options for signed answers lacks the other one."""
    if values.require_signature != bool(values.verify_key):
        found = "--verify-key without --require-signature" if values.verify_key else "--require-signature without --verify-key FILE"
        raise ConfigError(found, expected="both")


def add_precision(parser: argparse.ArgumentParser) -> None:
    """Precision Mode. `bare_joined` gives the option its value where it has none."""
    from tsq.options import Precision, parse_precision  # noqa: PLC0415 - tsqctl starts without it

    parser.add_argument(
        "--precision",
        nargs="?",
        type=checked(parse_precision),
        const=Precision.ASK,
        default=Precision.OFF,
        metavar="require",
        help="Precision Mode: answers as long as the requests, for slow links; --precision=require: use no others",
    )


def add_version(parser: argparse.ArgumentParser) -> None:
    """The command's version."""
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version and exit")
