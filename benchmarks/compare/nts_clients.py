"""Ten NTS clients with 500 requests a second together, one after another: what they get of a server.

Comes in: chronyd's two ports on loopback; then seconds on standard input, a line for each phase. Goes out: a line of JSON for each:
the share of requests that were answered, median and p99 of the delays in µs. Keys are from NTS-KE; the answers are not verified.
"""

import json
import socket
import sys
import time
from itertools import cycle

from benchmarks.compare.floods import spread
from benchmarks.nts import nts_requests
from benchmarks.processes import HOST

_CLIENTS, _RATE = 10, 500.0
# An answer that takes longer is lost.
_PATIENCE = 0.1


def main() -> int:
    """Run the command."""
    port, establishment = map(int, sys.argv[1:3])
    requests = nts_requests(establishment, 96)
    clients = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(_CLIENTS)]
    for one in clients:
        one.connect((HOST, port))
        one.settimeout(_PATIENCE)
    print("ready", flush=True)
    for line in sys.stdin:
        count = round(_RATE * float(line))
        begin, delays = time.monotonic(), []
        for number, client, request in zip(range(count), cycle(clients), cycle(requests), strict=False):
            time.sleep(max(0.0, begin + number / _RATE - time.monotonic()))
            sent = time.monotonic()
            client.send(request)
            try:
                client.recv(2048)
            except TimeoutError:
                continue
            delays.append(time.monotonic() - sent)
        print(json.dumps([len(delays) / count, *spread(delays)]), flush=True)
    for one in clients:
        one.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
