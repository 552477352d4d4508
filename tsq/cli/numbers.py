"""Numbers on a command line, and options that argparse reads only in one form.

Comes in: texts. Goes out: numbers, or ConfigError that says what was found. Limits are checked where a number is
used, never here.
"""

import re
from collections.abc import Collection, Sequence

from tsq.errors import ConfigError

_NEGATIVE = re.compile(r"-(?:\d|\.\d|inf|nan)", re.IGNORECASE)


def number(text: str) -> float:
    """A number."""
    try:
        return float(text)
    except ValueError:
        raise ConfigError(f"{text!r}", expected="a number, such as 0.5") from None


def whole_number(text: str) -> int:
    """A number without a fraction."""
    try:
        return int(text)
    except ValueError:
        raise ConfigError(f"{text!r}", expected="a whole number, such as 3") from None


def bare_joined(arguments: Sequence[str], option: str, value: str) -> list[str]:
    """`--option` as `--option=VALUE`: argparse takes what follows an option with an optional value for that value."""
    end = list(arguments).index("--") if "--" in arguments else len(arguments)
    return [f"{option}={value}" if one == option and at < end else one for at, one in enumerate(arguments)]


def negatives_joined(arguments: Sequence[str], options: Collection[str]) -> list[str]:
    """`--step -1` as `--step=-1`, for these options: beside -4 and -6, argparse takes a negative number for an option, and
    its error does not name the number.
    """
    joined: list[str] = []
    for argument in arguments:
        if joined and joined[-1] in options and _NEGATIVE.match(argument):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined
