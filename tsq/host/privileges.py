"""Gives up all privileges but the one to set the clock (capabilities(7)).

Comes in: whether the clock is to be set, a user's name. Goes out: nothing, or ConfigError. Nothing that was given up comes back,
also not in a program that this one starts. It must be called before other threads begin: capabilities are a thread's own.
"""

import contextlib
import grp
import os
import pwd
from collections.abc import Iterable

from tsq.errors import ConfigError
from tsq.host import _privileges

CAP_SYS_TIME = 25
# <linux/prctl.h>
_SET_KEEPCAPS, _CAPBSET_READ, _CAPBSET_DROP, _SET_NO_NEW_PRIVS, _CAP_AMBIENT = 8, 23, 24, 38, 47
_CAP_AMBIENT_CLEAR_ALL = 4
_MOST_CAPABILITIES = 64


def drop_privileges(*, keep_clock: bool, user: str = "", groups: Iterable[str] = ()) -> None:
    """Give up every capability but CAP_SYS_TIME, which stays if `keep_clock` and if this process has it. Raises ConfigError.

    user: become this user, which only root can; empty: stay who one is. groups: supplementary groups for root to keep, so that a
    file can be given to one of them. New privileges cannot be gained afterwards, not by a set-user-ID program either.
    """
    clock = 1 << CAP_SYS_TIME if keep_clock else 0
    try:
        effective, permitted, inheritable = _privileges.capabilities()
        _close_bounding_set(clock)
        if user or os.geteuid() == 0:
            _change_identity(user, groups)
        left = permitted & clock
        with contextlib.suppress(OSError):
            # Linux before 4.3 has no ambient capabilities.
            _privileges.prctl(_CAP_AMBIENT, _CAP_AMBIENT_CLEAR_ALL)
        if (effective, permitted, inheritable) != (left, left, 0) or user:
            # A service without privileges may be forbidden to call this at all.
            _privileges.keep(left, left, 0)
        _privileges.prctl(_SET_KEEPCAPS, 0)
        _privileges.prctl(_SET_NO_NEW_PRIVS, 1)
    except OSError as error:
        raise ConfigError(
            f"privileges cannot be given up: {error.strerror or error}", advice="start as root, or without a user"
        ) from error


def _close_bounding_set(clock: int) -> None:
    """So that no program gets back at exec what was given up. It needs CAP_SETPCAP: others have nothing to drop."""
    for number in range(_MOST_CAPABILITIES):
        try:
            held = _privileges.prctl(_CAPBSET_READ, number)
        except OSError:
            # The kernel has no more of them.
            return
        if held and not clock >> number & 1:
            with contextlib.suppress(PermissionError):
                _privileges.prctl(_CAPBSET_DROP, number)


def _change_identity(user: str, groups: Iterable[str]) -> None:
    """Become the user, and keep the permitted capabilities in doing so. Raises ConfigError, OSError."""
    more = [_group(name) for name in groups]
    if not user:
        # Root that has no CAP_SETGID, as in some containers, keeps the groups that it has.
        with contextlib.suppress(PermissionError):
            os.setgroups(more)
        return
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise ConfigError(f"no user {user!r} on this machine", expected="the name of a user") from None
    if entry.pw_uid == os.geteuid() == os.getuid():
        return
    _privileges.prctl(_SET_KEEPCAPS, 1)
    os.setgroups(sorted({*os.getgrouplist(user, entry.pw_gid), *more}))
    os.setresgid(entry.pw_gid, entry.pw_gid, entry.pw_gid)
    os.setresuid(entry.pw_uid, entry.pw_uid, entry.pw_uid)


def _group(name: str) -> int:
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        raise ConfigError(f"no group {name!r} on this machine", expected="the name of a group") from None
