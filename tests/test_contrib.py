"""The alert rules and the dashboard: Prometheus's own tool accepts them, and they use metrics that exist."""

import asyncio
import json
import re
import shutil
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.chronyd import until
from tests.support.metrics import documented
from tests.support.ports import free_port
from tsq.daemon.metrics import Metrics
from tsq.discipline.settings import Mode
from tsq.discipline.status import ClockStatus, SourceStatus, Status, Tracking
from tsq.exposition import Kind
from tsq.options import Target
from tsq.quic.selfsigned import CertificateFiles
from tsq.server.driver import Server
from tsq.server.metrics import ServerMetrics

ROOT = Path(__file__).resolve().parent.parent
RULES = ROOT / "contrib" / "prometheus" / "alerts.yaml"
CASES = ROOT / "tests" / "data" / "alerts_test.yaml"
DASHBOARD = ROOT / "contrib" / "grafana" / "tsq.json"
PROMTOOL, PROMETHEUS = shutil.which("promtool"), shutil.which("prometheus")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed (Debian: apt-get install prometheus)")


@pytest.fixture(scope="module")
def exported(certificates: CertificateFiles) -> dict[str, tuple[str, ...]]:
    """The samples that TSQ exports, by name, with their labels."""

    async def server() -> list:
        async with Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key)) as running:
            return list(ServerMetrics(running).families())

    status = Status(Tracking(Mode.STEER, ClockStatus.SYNCHRONIZED, 1, 1), (SourceStatus("a"),))
    found = {"up": (), "ALERTS": ()}
    for family in [*Metrics(lambda: status).families(), *asyncio.run(server())]:
        suffixes = {Kind.COUNTER: ["_total"], Kind.SUMMARY: ["_sum", "_count"], Kind.GAUGE: [""]}[family.kind]
        found |= {family.name + suffix: family.labels for suffix in suffixes}
    found |= dict.fromkeys(documented("## Of both: the process"), ())
    return found


def metrics_in(expression: str) -> set[str]:
    """The names of metrics in an expression, also within `__name__=~`."""
    return set(re.findall(r"\b(?:tsq_\w+|process_\w+)\b", expression))


def labels_in(expression: str) -> set[tuple[str, str]]:
    """(metric, label) for each label that an expression selects by."""
    return {
        (metric, label)
        for metric, matchers in re.findall(r"\b((?:tsq|process)_\w+)\{([^}]*)\}", expression)
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers)
    }


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    return json.loads(DASHBOARD.read_text())["panels"]


def expressions() -> Iterator[tuple[str, str]]:
    """(where, expression) of the rules and of the dashboard."""
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]
    for variable in json.loads(DASHBOARD.read_text())["templating"]["list"]:
        if variable["type"] == "query":
            yield variable["name"], variable["definition"]


@pytest.mark.parametrize(("where", "expression"), list(expressions()), ids=lambda value: value[:40])
def test_each_expression_uses_metrics_and_labels_that_exist(where, expression, exported):
    names = metrics_in(expression)
    assert names or expression.startswith("up{"), where
    assert names <= exported.keys()
    for metric, label in labels_in(expression):
        assert label in {*exported[metric], "job", "instance"}, (where, metric, label)


def test_what_the_page_says_to_alert_on_has_a_rule():
    page = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    section = page.partition("## What to alert on")[2].partition("\n## ")[0]
    used = set().union(*(metrics_in(rule["expr"]) for rule in rules()))
    named = set(re.findall(r"^\| `(\w+)`", section, re.MULTILINE))
    assert named <= used
    assert len(named) > 8


def test_each_rule_says_what_and_what_to_do():
    names = [rule["alert"] for rule in rules()]
    assert len(set(names)) == len(names)
    for rule in rules():
        assert rule["labels"]["severity"] in ("warning", "critical")
        assert rule["annotations"].keys() == {"summary", "description"}
        assert "$labels.instance" in rule["annotations"]["summary"]


@needs_promtool
def test_promtool_accepts_the_rules():
    done = subprocess.run([PROMTOOL, "check", "rules", RULES], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(rules())} rules found" in done.stdout


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_on_a_healthy_machine(tmp_path):
    shutil.copy(RULES, tmp_path)
    shutil.copy(CASES, tmp_path)
    done = subprocess.run(
        [PROMTOOL, "test", "rules", tmp_path / CASES.name], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    healthy, wrong = yaml.safe_load(CASES.read_text())["tests"]
    names = {rule["alert"] for rule in rules()}
    assert {case["alertname"] for case in healthy["alert_rule_test"]} == names
    fired = {re.search('"(.*)"', one["labels"])[1] for one in wrong["promql_expr_test"][0]["exp_samples"]}
    assert fired == names


@needs_promtool
def test_promtool_accepts_the_expressions_of_the_dashboard(tmp_path):
    found = [target["expr"].replace("$__rate_interval", "5m") for panel in panels() for target in panel.get("targets", [])]
    file = tmp_path / "dashboard.yaml"
    recorded = [{"record": f"panel:{number}", "expr": expression} for number, expression in enumerate(found)]
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}))
    done = subprocess.run([PROMTOOL, "check", "rules", file], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"SUCCESS: {len(found)} rules found" in done.stdout


def test_the_dashboard_has_what_grafana_needs():
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["schemaVersion"] >= 36
    assert dashboard["uid"]
    variables = {variable["name"] for variable in dashboard["templating"]["list"]}
    identities = [panel["id"] for panel in panels()]
    assert len(set(identities)) == len(identities)
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(x, y) for x in range(place["x"], place["x"] + place["w"]) for y in range(place["y"], place["y"] + place["h"])}
        assert place["x"] + place["w"] <= 24, panel["title"]
        assert not cells & taken, panel["title"]
        taken |= cells
        if panel["type"] == "row":
            continue
        assert panel["description"], panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"], panel["title"]
        assert panel["targets"], panel["title"]
        references = [target["refId"] for target in panel["targets"]]
        assert len(set(references)) == len(references)
        for part in (panel, *panel["targets"]):
            assert part["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    used = set(re.findall(r"\$\{?(\w+)\}?", json.dumps(dashboard))) - {"__rate_interval", "__all"}
    assert used == variables


def test_every_metric_of_the_clock_that_matters_is_shown():
    shown = set().union(*(metrics_in(expression) for _, expression in expressions()))
    for name in (
        "tsq_system_status", "tsq_system_bound_seconds", "tsq_system_offset_seconds", "tsq_system_frequency_error_ratio",
        "tsq_system_steps_total", "tsq_system_foreign_moves_total", "tsq_source_up", "tsq_source_root_distance_seconds",
        "tsq_server_answered_total", "tsq_server_dropped_total", "tsq_server_authdelay_seconds_sum",
    ):  # fmt: skip
        assert name in shown


@needs_promtool
def test_promtool_finds_nothing_odd_about_the_metrics(certificates):
    async def server() -> str:
        async with Server(["127.0.0.1:0"], str(certificates.certificate), str(certificates.key)) as running:
            return ServerMetrics(running, version="1").text()

    status = Status(Tracking(Mode.STEER, ClockStatus.SYNCHRONIZED, 1, 1, offset=1e-6), (SourceStatus('a"\n', offset=-1e-6),))
    for text in (Metrics(lambda: status, lambda: {"events": 1}).text(), asyncio.run(server())):
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True, timeout=60, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.skipif(PROMETHEUS is None, reason="prometheus is not installed (Debian: apt-get install prometheus)")
def test_a_real_prometheus_scrapes_the_metrics_and_evaluates_the_rules(tmp_path):
    port = free_port()
    status = Status(
        Tracking(Mode.STEER, ClockStatus.SYNCHRONIZED, 1, 1, bound=0.25, frozen="panic"), (SourceStatus("a", "192.0.2.1", reach=1),)
    )

    def ask(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/api/v1/{path}", timeout=10) as response:
                return json.load(response)["data"]
        except OSError:
            return None

    async def main() -> None:
        metrics = Metrics(lambda: status, version="1")
        metrics.start(Target("127.0.0.1", 0))
        (tmp_path / "prometheus.yml").write_text(yaml.safe_dump({
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(RULES)],
            "scrape_configs": [{"job_name": "tsqd", "static_configs": [{"targets": [str(metrics.address)]}]}],
        }))
        command = [
            PROMETHEUS, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
            f"--web.listen-address=127.0.0.1:{port}", "--log.level=error",
        ]  # fmt: skip
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            await asyncio.to_thread(look, process)
        finally:
            process.kill()
            process.wait()
            metrics.close()

    def look(process: subprocess.Popen) -> None:
        def found() -> list[Any]:
            assert process.poll() is None, (tmp_path / "log").read_text()
            return (ask("query?query=tsq_source_up") or {}).get("result")

        (sample,) = until(found, 60)
        assert sample["metric"].items() >= {"name": "a", "address": "192.0.2.1", "job": "tsqd"}.items()
        assert sample["value"][1] == "1"
        wanted = {"ClockBoundLarge", "ClockFrozen"}
        until(lambda: wanted <= {one["labels"]["alertname"] for one in (ask("alerts") or {}).get("alerts", [])}, 60)
        until(lambda: [rule["health"] for group in ask("rules")["groups"] for rule in group["rules"]] == ["ok"] * len(rules()), 60)

    asyncio.run(main())
