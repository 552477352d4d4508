"""What a server that serves gives up: privileges, core dumps, system calls, files (docs/howto/run-a-server.md).

Comes in: a user's name, how strictly, the files that are read again. Goes out: log lines about what could not be put in force. It
must be called when all sockets are open and all keys are read. What the kernel lacks must not keep a server from serving.
"""

import logging
from dataclasses import dataclass
from enum import StrEnum

from tsq.host import sandbox
from tsq.host.privileges import drop_privileges

logger = logging.getLogger(__name__)


class Strictness(StrEnum):
    """How a server is confined. ON: a system call that is not allowed fails. STRICT: it ends the process."""

    ON = "on"
    STRICT = "strict"
    OFF = "off"


@dataclass(frozen=True, slots=True)
class GivingUp:
    """What to give up. user: whom to become, which only root can; empty: nobody else. readable: files that are read again."""

    user: str = ""
    strictness: Strictness = Strictness.ON
    readable: tuple[str, ...] = ()

    def enter(self) -> None:
        """Give it up, for good. Raises ConfigError where the user cannot be taken on: a server must not stay root then."""
        confinement = None if self.strictness is Strictness.OFF else sandbox.Confinement(self.readable)
        drop_privileges(keep_clock=False, user=self.user)
        sandbox.forbid_core_dumps()
        if confinement is None:
            return
        refused = sandbox.Refused.ENDS if self.strictness is Strictness.STRICT else sandbox.Refused.FAILS
        for missing in confinement.enter(refused):
            logger.warning("the server is not fully confined: %s", missing)
