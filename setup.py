"""Describes the compiled extensions; everything else is in pyproject.toml."""

import gzip
import os
import sys
import tarfile
import time
from collections.abc import Iterable
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.sdist import sdist

DEBUG = os.environ.get("TSQ_DEBUG") == "1"
COMPILE = ["-Wall", "-Wextra", *(["-O0", "-g"] if DEBUG else ["-O2"])]
DIRECTIVES = {
    "language_level": 3,
    "boundscheck": True,
    "wraparound": False,
    "cdivision": True,
    "initializedcheck": False,
    "embedsignature": True,
    "linetrace": DEBUG,
}
HEADERS = ["tsq/dataplane/aesgcm.h"]
# TSQ_OWN_AES=0: without the AES code of aesgcm.h, for packagers who want libcrypto alone (docs/explanation/two-planes.md).
OWN_AES = ("TSQ_OWN_AES", "0" if os.environ.get("TSQ_OWN_AES") == "0" else "1")
MACROS = [OWN_AES, *([("CYTHON_TRACE_NOGIL", "1")] if DEBUG else [])]
# When this is built, Unix seconds; packagers who build the same thing twice say it (reproducible-builds.org).
BUILT = ("TSQ_BUILD_TIME", os.environ.get("SOURCE_DATE_EPOCH", str(int(time.time()))))
# What a client and the checks of signed answers need: built on every system.
PORTABLE = (
    "tsq._fast",
    "tsq._portable_sockets",
    "tsq.dataplane.packet",
    "tsq.dataplane.recovery",
    "tsq.dataplane.frames",
    "tsq.dataplane.session",
)
LINUX = (
    "tsq._sockets",
    "tsq.dataplane.table",
    "tsq.dataplane.digests",
    "tsq.dataplane.initials",
    "tsq.dataplane.tokens",
    "tsq.dataplane.prefixes",
    "tsq.dataplane.pressure",
    "tsq.dataplane.admission",
    "tsq.dataplane.records",
    "tsq.dataplane.cache",
    "tsq.dataplane.derivation",
    "tsq.dataplane.services",
    "tsq.dataplane.answers",
    "tsq.dataplane.stamps",
    "tsq.dataplane.sessions",
    "tsq.dataplane.upkeep",
    "tsq.dataplane.batches",
    "tsq.dataplane.waiting",
    "tsq.host._clock",
    "tsq.host._memory",
    "tsq.host._privileges",
    "tsq.host._sandbox",
    "tsq.host._segment",
    "tsq.host._step_notice",
)
MODULES = (*PORTABLE, *LINUX) if sys.platform == "linux" else PORTABLE
# What free-threaded Python may load without taking the interpreter lock: no object and no state of their own, only functions on
# memory that the caller owns. The others have objects with C memory, such as a session with its packet numbers, that two threads
# must not use at the same time: when they are loaded, Python takes the lock again (docs/howto/install.md).
FREE_THREADED = {
    *(f"tsq.dataplane.{name}" for name in ("recovery", "frames", "table", "digests", "initials", "tokens", "prefixes", "pressure")),
    *(f"tsq.dataplane.{name}" for name in ("records", "cache", "derivation", "services", "answers", "stamps")),
    *(f"tsq.host.{name}" for name in ("_clock", "_memory", "_privileges", "_sandbox", "_step_notice")),
}
CRYPTO = ("packet", "session", "records", "cache", "derivation", "digests", "tokens", "admission")
LIBRARIES = {f"tsq.dataplane.{name}": ["crypto"] for name in CRYPTO}
# libcrypto's SHA-256 with a state that can be copied without allocation is not in its newer interface.
SHA256 = ("OPENSSL_SUPPRESS_DEPRECATED", "1")
OWN_MACROS = {
    "tsq._fast": [BUILT],
    **{f"tsq.dataplane.{name}": [SHA256] for name in ("digests", "initials", "tokens", "admission", "prefixes", "batches")},
}


class SameSdist(sdist):
    """With SOURCE_DATE_EPOCH, a source distribution of which every build has the same bytes."""

    def make_archive(self, base_name: str, format: str, *rest: object, **named: object) -> str:  # noqa: A002
        """Write the archive: names in order; no owner, no time and no mode of the machine that it was built on."""
        if format != "gztar" or "SOURCE_DATE_EPOCH" not in os.environ:
            return str(super().make_archive(base_name, format, *rest, **named))
        when = int(os.environ["SOURCE_DATE_EPOCH"])

        def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
            member.uid = member.gid = 0
            member.uname = member.gname = ""
            member.mtime = when
            member.mode = 0o755 if member.isdir() or member.mode & 0o100 else 0o644
            return member

        tree = Path(str(named.get("base_dir") or rest[1]))
        file = f"{base_name}.tar.gz"
        with (
            open(file, "wb") as raw,
            gzip.GzipFile("", "wb", 9, raw, mtime=when) as packed,
            tarfile.open(fileobj=packed, mode="w", format=tarfile.GNU_FORMAT) as archive,
        ):
            for path in sorted([tree, *tree.rglob("*")]):
                archive.add(path, recursive=False, filter=plain)
        return file


def extension(module: str) -> Extension:
    """One extension of the package."""
    return Extension(
        module,
        [module.replace(".", "/") + ".pyx"],
        depends=HEADERS,
        include_dirs=["tsq/dataplane"],
        libraries=LIBRARIES.get(module, []),
        extra_compile_args=COMPILE,
        define_macros=[*MACROS, *OWN_MACROS.get(module, [])],
    )


def cythonized(modules: Iterable[str], *, quiet: bool = False) -> list[Extension]:
    """The extensions, translated to C where that is older than its source."""
    chosen = list(modules)
    extensions: list[Extension] = []
    for free in (True, False):
        some = [extension(module) for module in chosen if (module in FREE_THREADED) is free]
        directives = {**DIRECTIVES, "freethreading_compatible": free}
        extensions += cythonize(some, compiler_directives=directives, build_dir="build/cython", quiet=quiet) if some else []
    return extensions


def build(modules: Iterable[str]) -> None:
    """Run the command line's command for these modules."""
    setup(ext_modules=cythonized(modules), cmdclass={"sdist": SameSdist})


if __name__ == "__main__":
    build(MODULES)
