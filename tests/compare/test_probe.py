"""The probe of the accuracy benchmark, which records the raw timestamps of exchanges with a real server."""

import json
import subprocess
import sys

import pytest


@pytest.mark.parametrize("options", [[], ["--exact"], ["--exact", "--warm"], ["--stream"]], ids=" ".join)
def test_the_probe_records_the_times_of_each_exchange(server_process, certificates, options):
    command = [sys.executable, "-m", "benchmarks.probe", str(server_process.target), "--ca", str(certificates.authority)]
    done = subprocess.run(
        [*command, "--rate", "50", "--seconds", "1", *options], capture_output=True, text=True, timeout=60, check=True
    )
    found = json.loads(done.stdout)
    assert len(found) >= 5
    for t1, t2, t3, t4, exact_t3, *_ in found:
        assert t1 <= t2 <= t3 <= t4
        assert exact_t3 is None or t3 <= exact_t3
    assert any(times[4] is not None for times in found) == ("--exact" in options)
