"""`python -m tsq COMMAND`: the same as the installed command `tsq-COMMAND`."""

import sys

from tsq.cli import start

if __name__ == "__main__":
    sys.exit(start.package(sys.argv[1:]))
