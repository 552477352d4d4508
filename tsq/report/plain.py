"""Results in ASCII, for a terminal or a file whose encoding lacks "±" or "µ".

Comes in: text, or an encoding error. Goes out: text with "+/-", "u" and "..." in place of these signs. Loads no other module: the
commands use it before anything else.
"""

import codecs

SIGNS = {"±": "+/-", "µ": "u", "…": "..."}
# The name of the error handler for `str.encode` and text streams.
ERRORS = "tsq-plain"


def in_ascii(text: str) -> str:
    """A text without these signs."""
    for sign, replacement in SIGNS.items():
        text = text.replace(sign, replacement)
    return text


def has_signs(encoding: str) -> bool:
    """Whether an encoding has all of these signs."""
    try:
        "".join(SIGNS).encode(encoding)
    except (UnicodeError, LookupError):
        return False
    return True


def _replaced(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    return SIGNS.get(character, character.encode("ascii", "backslashreplace").decode()), error.start + 1


codecs.register_error(ERRORS, _replaced)
