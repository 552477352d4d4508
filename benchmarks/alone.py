"""TSQ's server through aioquic alone, for comparison with its data plane: `tsq-server` with `data_plane=False`.

    python -m benchmarks.alone --listen 127.0.0.1:0 --cert cert.pem --key key.pem
"""

import functools
import sys

import tsq.cli.server

if __name__ == "__main__":
    tsq.cli.server.Server = functools.partial(tsq.cli.server.Server, data_plane=False)  # type: ignore[misc, assignment]
    sys.exit(tsq.cli.server.main())
