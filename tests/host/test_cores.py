"""How many processors a process may use."""

import os

import pytest

from tsq.host.cores import usable_cores

ALL = len(os.sched_getaffinity(0))


def files(place, **texts: str):
    for name, text in texts.items():
        path = place / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def cores(tmp_path) -> int:
    return usable_cores(tmp_path / "mine", tmp_path / "groups")


def test_without_a_quota_it_is_the_affinity(tmp_path):
    assert cores(tmp_path) == ALL
    files(tmp_path, mine="0::/a/b\n", groups__a__b__cpu_DOT_max="max 100000\n")
    assert cores(tmp_path) == ALL


@pytest.mark.parametrize(("quota", "expected"), [("50000 100000", 1), ("100000 100000", 1), ("110000 100000", min(2, ALL))])
def test_a_quota_of_any_group_above_limits(tmp_path, quota, expected):
    files(tmp_path, mine="0::/a/b\n", groups__a__b__cpu_DOT_max="max 100000\n", groups__a__cpu_DOT_max=quota)
    assert cores(tmp_path) == expected


def test_version_1(tmp_path):
    files(tmp_path, mine="5:memory:/c\n3:cpu,cpuacct:/a\n", groups__a="")
    (tmp_path / "groups/a").unlink()
    place = tmp_path / "groups/cpu,cpuacct/a"
    place.mkdir(parents=True)
    (place / "cpu.cfs_quota_us").write_text("60000\n")
    (place / "cpu.cfs_period_us").write_text("100000\n")
    assert cores(tmp_path) == 1
    (place / "cpu.cfs_quota_us").write_text("-1\n")
    assert cores(tmp_path) == ALL


def test_inside_a_container_the_top_is_its_own_group(tmp_path):
    files(tmp_path, mine="0::/elsewhere\n", groups__cpu_DOT_max="20000 100000\n")
    assert cores(tmp_path) == 1


@pytest.mark.parametrize("text", ["", "x", "0::/../../etc", "0 0", "1 2 3", "-1 0", "100000 0"])
def test_what_cannot_be_read_does_not_limit(tmp_path, text):
    files(tmp_path, mine=text, groups__cpu_DOT_max=text)
    assert cores(tmp_path) == ALL


def test_an_affinity_of_one_processor_is_one(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3})
    assert usable_cores() == 1
