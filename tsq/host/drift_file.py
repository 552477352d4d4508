"""What the daemon learned about this machine's oscillator, kept over restarts in a file (JSON).

Comes in: the file's name. Goes out: a SavedDrift, or None with a warning. It must never fail a program: without a file that can be
read or written, the daemon learns anew. A power failure leaves the old file or the new one, complete.
"""

import json
import logging
import os
from collections.abc import Callable

from tsq.discipline.events import SavedDrift
from tsq.host import files

logger = logging.getLogger(__name__)

VERSION = 1
_MODE = 0o644
_MOST_READ = 65_536
# No oscillator is off by more: the kernel cannot correct more.
_MOST_FREQUENCY = 0.1
_MOST_WEIGHTS = 64
_MOST_NS = 2**63 - 1
Warn = Callable[[str], None]


def _log(text: str) -> None:
    logger.warning("%s", text)


class DriftFile:
    """The drift file at a path. warn: gets a sentence for the operator; one that is repeated comes once."""

    def __init__(self, path: str, warn: Warn = _log) -> None:
        self.path = path
        self._warn = warn
        self._warned = ""

    def load(self) -> SavedDrift | None:
        """What was saved. None if there is no file yet, or, with a warning, if it cannot be used."""
        try:
            text = files.read(self.path, _MOST_READ).decode("utf-8")
        except FileNotFoundError:
            return None
        except OSError as error:
            self._warn(f"drift file {self.path} cannot be read and is ignored: {files.why(error)}")
            return None
        except ValueError as error:
            self._warn(f"drift file {self.path} is damaged and is ignored: {error}")
            return None
        try:
            return _parsed(text)
        except (ValueError, RecursionError) as error:
            self._warn(f"drift file {self.path} is damaged and is ignored: {error}")
            return None

    def save(self, drift: SavedDrift) -> bool:
        """Replace the file; whether that was possible. If not, warn; the old file stays complete."""
        try:
            files.make_directory(os.path.dirname(os.path.abspath(self.path)))
            files.replace(self.path, _text(drift).encode("ascii"), _MODE)
        except (OSError, ValueError) as error:
            text = f"the drift was not saved to {self.path}: {files.why(error) if isinstance(error, OSError) else error}"
            if text != self._warned:
                self._warn(text)
            self._warned = text
            return False
        self._warned = ""
        return True


def _text(drift: SavedDrift) -> str:
    content = {
        "version": VERSION,
        "frequency": drift.frequency,
        "uncertainty": drift.uncertainty,
        "weights": list(drift.weights),
        "saved_ns": drift.saved_ns,
    }
    return json.dumps(content, allow_nan=False) + "\n"


def _parsed(text: str) -> SavedDrift:
    """Raises ValueError with what was found and what was expected."""
    found = json.loads(text)
    if not isinstance(found, dict):
        raise ValueError("no JSON object")
    if found.get("version") != VERSION:
        raise ValueError(f"version {str(found.get('version'))[:20]!r}, expected {VERSION}")
    weights = found.get("weights", [])
    if not isinstance(weights, list) or len(weights) > _MOST_WEIGHTS:
        raise ValueError(f"weights is no list of at most {_MOST_WEIGHTS} numbers")
    saved_ns = found.get("saved_ns", 0)
    if isinstance(saved_ns, bool) or not isinstance(saved_ns, int) or not 0 <= saved_ns <= _MOST_NS:
        raise ValueError("saved_ns is no time in nanoseconds")
    frequency = _number(found, "frequency", -_MOST_FREQUENCY, _MOST_FREQUENCY)
    uncertainty = _number(found, "uncertainty", 0.0, _MOST_FREQUENCY)
    each = tuple(_number({"weight": one}, "weight", 0.0, 1.0) for one in weights)
    return SavedDrift(frequency, uncertainty, each, saved_ns)


def _number(found: dict[str, object], name: str, least: float, most: float) -> float:
    value = found.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise ValueError(f"{name} is {str(value)[:20]!r}, expected a number from {least:g} to {most:g}")
    return float(value)
