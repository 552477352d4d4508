"""What the command lines share: options read from text, and the TLS key log.

Comes in: texts of a command line, the environment. Goes out: values, or argparse's usage error (exit status 2). What is wrong with
a file or an address is told in one line, without the usage, with the same exit status.
"""

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn, TextIO, TypeVar

from tsq.errors import ConfigError

T = TypeVar("T")

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130


def checked(convert: Callable[[str], T]) -> Callable[[str], T]:
    """An argparse type from a function that raises ConfigError."""

    def convert_or_explain(text: str) -> T:
        try:
            return convert(text)
        except ConfigError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return convert_or_explain


def cannot_use(parser: argparse.ArgumentParser, error: ConfigError) -> NoReturn:
    """End the program: the options are well formed, but a file or an address that they name cannot be used."""
    parser.exit(EXIT_USAGE, f"{parser.prog}: error: {error}\n")


def write_no_more(stream: TextIO) -> None:
    """What is still to be written there goes nowhere, as who read has gone, or the disk is full."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def key_log(program: str) -> TextIO | None:
    """The file that SSLKEYLOGFILE names, for decrypting captures; says so, for whoever has it can read the traffic."""
    name = os.environ.get("SSLKEYLOGFILE")
    if not name:
        return None
    try:
        file = open(name, "a", encoding="ascii", opener=_private)  # noqa: SIM115 - lives as long as the program
    except OSError as error:
        advice = "name a file that can be written, or unset it"
        raise ConfigError(f"SSLKEYLOGFILE {name}: {error.strerror}", advice=advice) from error
    sys.stderr.write(f"{program}: TLS secrets go to {name} (SSLKEYLOGFILE)\n")
    return file


def _private(name: str, flags: int) -> int:
    return os.open(name, flags, 0o600)
