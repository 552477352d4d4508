"""Describes the compiled extensions; everything else is in pyproject.toml."""

import os

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


def extension(name: str, *libraries: str) -> Extension:
    """One extension of the package."""
    return Extension(
        f"tsq.{name}",
        [f"tsq/{name}.pyx"],
        depends=HEADERS,
        include_dirs=["tsq"],
        libraries=list(libraries),
        extra_compile_args=COMPILE,
        define_macros=MACROS,
    )


LIBRARIES = {"_packet": ["crypto"], "_session": ["crypto"]}
NAMES = ("_fast", "_packet", "_recovery", "_session", "_table", "_datapath", "_asker")
extensions = [extension(name, *LIBRARIES.get(name, [])) for name in NAMES]
setup(ext_modules=cythonize(extensions, compiler_directives=DIRECTIVES, build_dir="build/cython"))
