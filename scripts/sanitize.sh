#!/bin/sh
# Build the extensions with AddressSanitizer and UndefinedBehaviorSanitizer in a copy of the tree, and run the tests of the compiled
# code there: tests/dataplane and tests/properties, or the tests given as arguments. Needs a built .venv and gcc.
set -eu
ROOT=$(cd "$(dirname "$0")/.." && pwd)
PYTHON=${PYTHON:-$ROOT/.venv/bin/python}
CC=${CC:-gcc}
[ $# -gt 0 ] || set -- tests/dataplane tests/properties

library=$("$CC" -print-file-name=libasan.so)
if [ ! -e "$library" ]; then
    echo "sanitize: $CC has no libasan.so (Debian: apt-get install libasan8, or gcc with its sanitizers)" >&2
    exit 1
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' INT TERM
cd "$ROOT"
tar cf - --exclude='*.so' --exclude=__pycache__ setup.py pyproject.toml README.md LICENSE tsq tests benchmarks scripts docs 2>/dev/null |
    tar xf - -C "$work"
# Keep the certificates and caches of the tests in the copy, too.
mkdir "$work/tmp"
cd "$work"
# setup.py appends its own optimization level, which would override the one below.
sed -i 's/"-O2"/"-O1"/' setup.py
echo "sanitize: building in $work"
if ! CC=$CC LDSHARED="$CC -shared" CFLAGS="-fsanitize=address,undefined -fno-omit-frame-pointer -fno-sanitize-recover=undefined -g -O1" \
    PYTHONWARNINGS=ignore "$PYTHON" setup.py -q build_ext --inplace >build.log 2>&1; then
    tail -n 40 build.log >&2
    exit 1
fi

# Python itself is not instrumented and frees some memory only at its end, so leak reports are off. Its objects come from malloc, so
# that a read past the end of a bytes object is detected.
export LD_PRELOAD="$library"
export ASAN_OPTIONS="detect_leaks=0:abort_on_error=1:halt_on_error=1:allocator_may_return_null=1:log_path=$work/tmp/report"
export UBSAN_OPTIONS="print_stacktrace=1:halt_on_error=1:abort_on_error=1"
export PYTHONMALLOC=malloc TMPDIR="$work/tmp"
"$PYTHON" -c 'import os, tsq._fast as module; assert os.path.realpath(module.__file__).startswith(os.path.realpath(os.getcwd())), module'
status=0
# UndefinedBehaviorSanitizer reports on standard error: pytest must not capture it, or the report is lost when the process aborts.
# test_own_aes.py builds a copy of its own, without sanitizers.
"$PYTHON" -X faulthandler -m pytest -p no:cacheprovider --capture=sys -m "not foreign" --ignore=tests/dataplane/test_own_aes.py "$@" ||
    status=$?
unset LD_PRELOAD
found=0
for report in "$work"/tmp/report*; do
    [ -e "$report" ] || continue
    found=$((found + 1))
    cat "$report" >&2
done
echo "sanitize: tests ended with status $status, $found reports"
[ "$found" = 0 ] && exit "$status"
exit 1
