"""Memory that only a part of a program's run needed, given back to the system.

Goes out: how much of the libraries' code was given back. It must never touch a page that was written to, fail a program, or be used
while an answer waits: it takes milliseconds.
"""

from collections.abc import Iterable, Iterator

from tsq.host._memory import drop_unwritten, give_back


def release() -> int:
    """Give back free memory, and the code that was used and is not needed any more; KiB of that.

    Code that is needed comes back by itself, from the system's cache of files.
    """
    give_back()
    try:
        with open("/proc/self/smaps") as file:
            found = list(unwritten(file))
    except (OSError, ValueError):
        # Without /proc, or in a format of another system.
        return 0
    return sum(kib for begin, end, kib in found if drop_unwritten(begin, end - begin))


def unwritten(smaps: Iterable[str]) -> Iterator[tuple[int, int, int]]:
    """Of proc_pid_smaps(5): begin, end and resident KiB of each part of a file that cannot be written to, and never was.

    Raises ValueError for anything else than that format.
    """
    begin = end = kib = 0
    for line in smaps:
        name, _, rest = line.partition(" ")
        if name == "Rss:":
            kib = int(rest.split()[0])
        elif name == "Anonymous:":
            # A page that was written to is a copy, and no part of the file any more: the linker's work, a debugger's.
            if end and kib and int(rest.split()[0]) == 0:
                yield begin, end, kib
            end = 0
        elif not name.endswith(":"):
            begin, end = (int(word, 16) for word in name.split("-"))
            permissions, _, _, inode, *_ = rest.split()
            if permissions not in ("r-xp", "r--p") or inode == "0":
                end = 0
