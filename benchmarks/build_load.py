"""Builds the compiled load in place, as setup.py builds TSQ: `python -m benchmarks.build_load build_ext --inplace`."""

import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent

if __name__ == "__main__":
    sys.path.insert(0, str(_ROOT))
    from setup import build

    build(["benchmarks._load"])
