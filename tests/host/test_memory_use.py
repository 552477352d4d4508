"""The share of memory in use, from files as Linux writes them."""

import pytest

from tsq.host.memory_use import memory_share


@pytest.fixture
def files(tmp_path):
    (tmp_path / "meminfo").write_text("MemTotal:       1000 kB\nMemFree:  10 kB\nMemAvailable:    750 kB\nHugePages_Total:  0\n")
    return tmp_path


def group(files, limit: str, used: int, inactive: int) -> None:
    (files / "memory.max").write_text(limit)
    (files / "memory.current").write_text(f"{used}\n")
    (files / "memory.stat").write_text(f"anon 5\ninactive_file {inactive}\nactive_file 7\n")


def test_of_the_machine(files):
    assert memory_share(files / "meminfo", files / "nowhere") == 0.25


def test_of_a_container_with_a_limit(files):
    group(files, "1000\n", 950, 50)
    assert memory_share(files / "meminfo", files) == 0.9
    group(files, "1000\n", 100, 50)
    assert memory_share(files / "meminfo", files) == 0.25


@pytest.mark.parametrize("limit", ["max\n", "", "0\n", "much"])
def test_without_a_limit_it_is_the_machines(files, limit):
    group(files, limit, 950, 50)
    assert memory_share(files / "meminfo", files) == 0.25


def test_where_nothing_can_be_read_nothing_is_in_use(files):
    (files / "meminfo").write_text("MemTotal: 0 kB\nMemAvailable: 0 kB\n")
    assert memory_share(files / "meminfo", files / "nowhere") == 0.0
    assert memory_share(files / "nowhere", files / "nowhere") == 0.0


def test_here():
    assert 0 < memory_share() < 1
