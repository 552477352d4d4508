"""A program that queries servers with the library: `python -m tests.support.asker`.

Each line of its input is a query as JSON: {"how": "query", "query_all" or "connect", "host": ..., "ca": ..., "timeout": ...}. Each
line of its output is the result as JSON.
"""

import asyncio
import json
import sys

import tsq


async def connect(host: str, options: tsq.ClientOptions) -> tsq.HostResult:
    """Query with the asynchronous client."""
    async with tsq.connect(host, options) as client:
        return await client.measure(options.count, options.interval)


def asked(question: dict) -> tsq.HostResult:
    """The result of one query; raises TSQError."""
    options = tsq.ClientOptions(
        interval=0.01,
        timeout=question["timeout"],
        trust=tsq.Trust(ca_file=question["ca"]),
        server_name="localhost",
    )
    if question["how"] == "connect":
        return asyncio.run(connect(question["host"], options))
    if question["how"] == "query":
        return tsq.query(question["host"], options)
    (result,) = tsq.query_all([tsq.parse_target(question["host"])], options)
    if result.error is not None:
        raise result.error
    return result


def main() -> None:
    """Answer each line."""
    for line in sys.stdin:
        try:
            result = asked(json.loads(line))
            found = {"address": result.address, "good": result.good, "zero_rtt": result.zero_rtt, "kind": None, "error": None}
        except tsq.TSQError as error:
            found = {"address": None, "good": 0, "zero_rtt": False, "kind": type(error).__name__, "error": str(error)}
        sys.stdout.write(json.dumps(found) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
