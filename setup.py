"""Describes the compiled extensions; everything else is in pyproject.toml."""

import os
import time
from collections.abc import Iterable

from Cython.Build import cythonize
from setuptools import Extension, setup

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
MODULES = (
    "tsq._fast",
    "tsq.dataplane.packet",
    "tsq.dataplane.recovery",
    "tsq.dataplane.frames",
    "tsq.dataplane.session",
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
    "tsq.dataplane.batches",
    "tsq.host._clock",
    "tsq.host._memory",
    "tsq.host._privileges",
    "tsq.host._sandbox",
    "tsq.host._segment",
    "tsq.host._step_notice",
)
CRYPTO = ("packet", "session", "records", "cache", "derivation", "digests", "tokens", "admission")
LIBRARIES = {f"tsq.dataplane.{name}": ["crypto"] for name in CRYPTO}
# libcrypto's SHA-256 with a state that can be copied without allocation is not in its newer interface.
SHA256 = ("OPENSSL_SUPPRESS_DEPRECATED", "1")
OWN_MACROS = {
    "tsq.host._clock": [BUILT],
    **{f"tsq.dataplane.{name}": [SHA256] for name in ("digests", "initials", "tokens", "admission", "prefixes", "batches")},
}


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


def build(modules: Iterable[str]) -> None:
    """Run the command line's command for these modules."""
    extensions = [extension(module) for module in modules]
    setup(ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES, build_dir="build/cython"))


if __name__ == "__main__":
    build(MODULES)
