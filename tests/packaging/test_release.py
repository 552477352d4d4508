"""What a release needs: the changelog in the form of Keep a Changelog, versions that agree, a workflow without a secret."""

import re
import runpy
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import tsq

ROOT = Path(__file__).resolve().parents[2]
# https://keepachangelog.com/en/1.1.0/
KINDS = ["Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"]
faults = runpy.run_path(str(ROOT / "scripts/release.py"))["faults"]
WORKFLOW = ROOT / ".github/workflows/release.yml"


def test_the_changelog_has_versions_dates_and_kinds_of_changes():
    lines = (ROOT / "CHANGELOG.md").read_text().splitlines()
    assert lines[0] == "# Changelog"
    headings = [line for line in lines if line.startswith("## ")]
    assert headings[0] == "## [Unreleased]" or headings[0].startswith(f"## [{tsq.__version__}] - ")
    for heading in headings[1:]:
        assert re.fullmatch(r"## \[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d( \[YANKED\])?", heading), heading
    versions = [tuple(map(int, re.findall(r"\d+", heading)[:3])) for heading in headings if "Unreleased" not in heading]
    assert versions == sorted(versions, reverse=True)
    wrong = [line for line in lines if line.startswith("### ") and line[4:] not in KINDS]
    assert not wrong, f"{wrong}: one of {KINDS} expected, and a theme as #### below it"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What scripts/release.py reads, ready for this version."""
    for name in ("tsq/__init__.py", "debian/changelog"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    (tmp_path / "CHANGELOG.md").write_text(f"# Changelog\n\n## [Unreleased]\n\n## [{tsq.__version__}] - 2026-12-01\n")
    return tmp_path


def test_a_tree_that_is_ready_has_no_fault(tree):
    assert faults(tsq.__version__, tree) == []


def test_another_version_is_found_in_each_place(tree):
    found = faults("9.9.9", tree)
    assert [fault.partition(":")[0] for fault in found] == ["tsq/__init__.py", "debian/changelog", "CHANGELOG.md"]


def test_a_version_without_a_date_is_found(tree):
    (tree / "CHANGELOG.md").write_text("# Changelog\n\n## [Unreleased]\n")
    assert faults(tsq.__version__, tree) == [
        f"CHANGELOG.md: the newest version is nothing (expected: [{tsq.__version__}] - YYYY-MM-DD)"
    ]


def test_the_workflow_needs_no_secret_and_each_job_has_few_rights():
    text = WORKFLOW.read_text()
    assert "secrets." not in text
    assert "password" not in text
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    rights = {name: job["permissions"] for name, job in workflow["jobs"].items() if "permissions" in job}
    assert rights["publish"] == {"id-token": "write"}
    assert set(rights) == {"attest", "publish"}
    assert workflow["jobs"]["publish"]["environment"] == "pypi"
    for job in workflow["jobs"].values():
        for step in job["steps"]:
            if step.get("uses", "").startswith("actions/checkout"):
                assert step["with"]["persist-credentials"] is False


def test_what_the_workflow_runs_exists():
    text = WORKFLOW.read_text()
    for script in re.findall(r"(scripts/\w+\.\w+)", text):
        assert (ROOT / script).exists()
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"run: make (\w+)", text):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


def test_the_version_of_openssl_that_the_documentation_names_is_built():
    (version,) = re.findall(r"^VERSION=(.*)$", (ROOT / "scripts/openssl.sh").read_text(), re.MULTILINE)
    assert f"OpenSSL {version}," in (ROOT / "docs/howto/install.md").read_text()


def test_an_archive_of_openssl_with_other_bytes_is_refused(tmp_path):
    (tmp_path / "openssl.tar.gz").write_bytes(b"another")
    command = ["env", f"OPENSSL_TARBALL={tmp_path / 'openssl.tar.gz'}", "sh", ROOT / "scripts/openssl.sh", tmp_path / "prefix"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert re.search(r"is not OpenSSL 3\.\S+ \(its SHA-256 is not [0-9a-f]{64}\)$", done.stderr.strip())
    assert not (tmp_path / "prefix").exists()


def test_each_script_of_the_shell_parses():
    for script in sorted((ROOT / "scripts").glob("*.sh")):
        subprocess.run(["sh", "-n", script], check=True, timeout=60)


def test_the_wheels_that_the_documentation_builds_and_tries_name_scripts_and_tests_that_exist():
    text = (ROOT / "docs/howto/install.md").read_text()
    named = re.findall(r"(?:sh |\s)((?:scripts|tests)/[\w/.]+)", text)
    assert {"scripts/wheels.sh", "scripts/musl_root.sh", "scripts/try_wheel.sh", "tests/vectors"} <= set(named)
    assert not [name for name in named if not (ROOT / name).exists()]
