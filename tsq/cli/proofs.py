"""The options of tsq-client for signed answers: what each needs, the audit log, the chain (docs/howto/sign-answers.md)."""

import argparse
import asyncio
from collections.abc import Callable, Sequence

from tsq.audit.records import Chain, Record
from tsq.cli.common import EXIT_FAILED, EXIT_OK
from tsq.cli.parsers import check_signatures
from tsq.client.exchange import Exchanged
from tsq.errors import ConfigError
from tsq.host.audit_file import AuditFile
from tsq.host.key_files import load_verifier
from tsq.options import ClientOptions, Target
from tsq.wire.signature import Verifier
from tsq.wording import counted

_NOT_IN_A_CHAIN = ("watch", "json", "plot", "session_file", "stream")


def check(values: argparse.Namespace, targets: Sequence[Target]) -> None:
    """Raises ConfigError where one of these options lacks another one, or cannot go with one."""
    check_signatures(values)
    if values.audit_log is not None and not values.require_signature:
        raise ConfigError("--audit-log without --require-signature", expected="signed answers: others prove nothing")
    if not values.chain:
        return
    if values.audit_log is None:
        raise ConfigError("--chain without --audit-log FILE", expected="a file for the chain")
    other = next((name.replace("_", "-") for name in _NOT_IN_A_CHAIN if getattr(values, name)), None)
    if other is not None:
        raise ConfigError(f"--chain together with --{other}", expected="one of them")
    if len({*map(str, targets)}) < max(2, len(targets)):
        raise ConfigError("--chain with one host, or one that is given twice", expected="two hosts or more, each once")


class Proofs:
    """What checks the answers' signatures, and where they are kept; log: None: nowhere. Raises ConfigError."""

    def __init__(self, values: argparse.Namespace) -> None:
        self.verifier: Verifier = load_verifier(values.verify_key)
        self.log = None if values.audit_log is None else AuditFile(values.audit_log)

    def keep(self, target: Target, exchanged: Exchanged) -> None:
        """Append one exchange to the log."""
        if self.log is not None:
            self.log.add(Record(str(target), exchanged.request, exchanged.response, exchanged.t1_ns, exchanged.t4_ns))

    def ask_in_turn(self, targets: Sequence[Target], options: ClientOptions) -> None:
        """Ask one tour, keep its answers, and say so. Raises TSQError."""
        from tsq.oneshot.chain import ask_in_turn  # noqa: PLC0415 - loaded only where it is used

        log = self.log
        assert log is not None

        async def ask() -> None:
            async for record in ask_in_turn(targets, options, self.verifier, Chain()):
                log.add(record)

        asyncio.run(ask())
        if not log.lost:
            chain = f"{counted(log.count, 'answer')} by {counted(len(targets), 'server')}"
            print(f"a chain of {chain} is in {log.path}; tsq-audit checks it")

    def end(self, say: Callable[[str], None]) -> int:
        """Close the log; the exit status, EXIT_OK where it has everything."""
        if self.log is None:
            return EXIT_OK
        self.log.close()
        if not self.log.lost:
            return EXIT_OK
        say(f"audit log {self.log.path}: {self.log.lost}; {counted(self.log.count, 'exchange')} in it, the others are lost")
        return EXIT_FAILED
