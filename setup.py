"""Describes the compiled extensions; everything else is in pyproject.toml."""

import os
import time

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
HEADERS = ["tsq/aesgcm.h"]
MACROS = [("CYTHON_TRACE_NOGIL", "1")] if DEBUG else []
# When this is built, Unix seconds; packagers who build the same thing twice say it (reproducible-builds.org).
BUILT = ("TSQ_BUILD_TIME", os.environ.get("SOURCE_DATE_EPOCH", str(int(time.time()))))


def extension(name: str, *libraries: str, macro: tuple[str, str] | None = None) -> Extension:
    """One extension of the package."""
    macros = [*MACROS, *([macro] if macro else [])]
    return Extension(
        f"tsq.{name}",
        [f"tsq/{name}.pyx"],
        depends=HEADERS,
        include_dirs=["tsq"],
        libraries=list(libraries),
        extra_compile_args=COMPILE,
        define_macros=macros,
    )


NAMES = ("_fast", "_packet", "_recovery", "_frames", "_session", "_table", "_datapath", "_asker", "_clock", "_memory")
LIBRARIES = {"_packet": ["crypto"], "_session": ["crypto"]}
OWN_MACROS = {"_clock": BUILT}
extensions = [extension(name, *LIBRARIES.get(name, []), macro=OWN_MACROS.get(name)) for name in NAMES]
setup(ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES, build_dir="build/cython"))
