"""What the socket calls of macOS and the BSDs cost in precision: both kinds in turn, in one process, on Linux's loopback.

    python -m benchmarks.portable [ROUNDS]

Prints a Markdown table: medians of the bound (root distance), of the error and of the delay, and their ratios.
"""

import sys
import tempfile
from statistics import median

import tsq
from tests.support.threads import ServerThread
from tsq import _portable_sockets, _sockets, sockets
from tsq.quic.selfsigned import self_signed

KINDS = {"Linux's": _sockets, "portable": _portable_sockets}
COUNT = 50


def main(rounds: int) -> None:
    found = {kind: {"bound": [], "error": [], "delay": []} for kind in KINDS}
    with tempfile.TemporaryDirectory() as directory:
        certificates = self_signed(directory, ["127.0.0.1"])
        with ServerThread(["127.0.0.1:0"], certificates) as server:
            options = tsq.ClientOptions(trust=tsq.Trust(ca_file=server.ca), interval=0.002, count=COUNT)
            for _ in range(rounds):
                for kind, calls in KINDS.items():
                    sockets.calls = calls
                    # Both ends read one clock: the true offset is 0.
                    for sample in tsq.query(server.target, options).samples[5:]:
                        if sample.valid:
                            found[kind]["bound"].append(sample.root_distance * 1e6)
                            found[kind]["error"].append(abs(sample.offset) * 1e6)
                            found[kind]["delay"].append(sample.delay * 1e6)
    sockets.calls = _sockets
    print("| median, µs | Linux's calls | portable calls | ratio |\n|---|---|---|---|")
    for what, name in (("bound", "bound"), ("error", "error of the offset"), ("delay", "delay")):
        first, second = (median(found[kind][what]) for kind in KINDS)
        print(f"| {name} | {first:.1f} | {second:.1f} | {second / first:.2f} |")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 10)
