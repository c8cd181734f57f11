"""Alerts, dashboards and metrics, judged by Prometheus itself."""

from __future__ import annotations

import json
import re
import subprocess
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.demo import ROOT, Demo, answers, free_port, running_demo

pytestmark = pytest.mark.ops

PROMETHEUS = ROOT / "config/prometheus"
RULES = PROMETHEUS / "chive-indexer.rules.yml"
RULE_TESTS = PROMETHEUS / "chive-indexer.rules.test.yml"
DASHBOARDS = sorted((ROOT / "config/grafana/dashboards").glob("*.json"))
README = ROOT / "README.md"
COMMAND_S = 300.0
SCRAPES_S = 60.0
OPERATION_S = 60.0

ALERTS: list[dict[str, Any]] = yaml.safe_load(RULES.read_text())["groups"][0]["rules"]
PANELS = [
    pytest.param(panel, id=f"{file.stem}/{panel['title']}")
    for file in DASHBOARDS
    for panel in json.loads(file.read_text())["panels"]
]


def promtool(*arguments: str | Path, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        ("promtool", *arguments), input=stdin, capture_output=True, timeout=COMMAND_S, check=False
    )


def test_the_rules_and_the_configuration_are_accepted():
    for arguments in (
        ("check", "rules", RULES),
        ("check", "config", PROMETHEUS / "prometheus.yml"),
    ):
        result = promtool(*arguments)
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_alert_fires_in_its_state_and_not_in_one_close_to_it():
    result = promtool("test", "rules", RULE_TESTS)
    assert result.returncode == 0, result.stdout + result.stderr
    names = [case["name"] for case in yaml.safe_load(RULE_TESTS.read_text())["tests"]]
    wanted = [f"{alert['alert']} {does}" for alert in ALERTS for does in ("fires", "does not fire")]
    assert sorted(names) == sorted(wanted)


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_an_alert_that_never_fires_or_always_does_is_noticed(alert: dict[str, Any], tmp_path: Path):
    cases = yaml.safe_load(RULE_TESTS.read_text())
    cases["tests"] = [c for c in cases["tests"] if c["name"].startswith(f"{alert['alert']} ")]
    (tmp_path / RULE_TESTS.name).write_text(yaml.safe_dump(cases))
    for expression, is_right in (
        (alert["expr"], True),
        ("vector(0) > 1", False),
        ("vector(1)", False),
    ):
        group = {"name": "one", "rules": [{**alert, "expr": expression}]}
        (tmp_path / RULES.name).write_text(yaml.safe_dump({"groups": [group]}))
        result = promtool("test", "rules", tmp_path / RULE_TESTS.name)
        assert (result.returncode == 0) is is_right, result.stdout + result.stderr


def test_every_alert_has_its_section_in_the_runbook_and_every_section_its_alert():
    sections = re.findall(r"^#### (Chive\w+)$", README.read_text(), re.MULTILINE)
    assert sections == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        url = alert["annotations"]["runbook_url"]
        assert url.partition("#")[2] == alert["alert"].lower()
        assert alert["labels"]["severity"] in {"warning", "critical"}


@pytest.mark.parametrize("file", DASHBOARDS, ids=lambda file: file.stem)
def test_a_dashboard_can_be_provisioned_anywhere(file: Path):
    dashboard = json.loads(file.read_text())
    assert dashboard["uid"] == file.stem
    assert dashboard["id"] is None
    variables = {each["name"]: each for each in dashboard["templating"]["list"]}
    assert list(variables) == ["datasource", "job", "instance"]
    assert variables["job"]["allValue"] == variables["instance"]["allValue"] == ".*"


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_in_which_unit_and_of_which_instance(panel: dict[str, Any]):
    assert panel["title"] and panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert panel["datasource"]["uid"] == "${datasource}"
    for target in panel["targets"]:
        selectors = re.findall(r"\b((?:chive|process)_\w+)(\{[^}]*\})?", target["expr"])
        assert selectors
        for _, labels in selectors:
            assert 'job=~"$job",instance=~"$instance"' in labels
        if "rate(" in target["expr"]:
            assert "[$__rate_interval]" in target["expr"]


class Prometheus:
    """A real server that scrapes one daemon."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The result of an instant query, now."""
        form = urllib.parse.urlencode({"query": expression}).encode()
        with urllib.request.urlopen(f"{self.url}/api/v1/query", form, timeout=30) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        result = answer["data"]["result"]
        assert isinstance(result, list)
        return result

    def alerts(self) -> dict[str, str]:
        """Pending and firing alerts: name -> state."""
        with urllib.request.urlopen(f"{self.url}/api/v1/alerts", timeout=30) as response:
            found = json.load(response)["data"]["alerts"]
        return {each["labels"]["alertname"]: each["state"] for each in found}


@contextmanager
def prometheus(folder: Path, target: str) -> Iterator[Prometheus]:
    """Scrape `target` (host:port) every second, by the shipped configuration otherwise."""
    configuration = yaml.safe_load((PROMETHEUS / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(RULES)]
    configuration["scrape_configs"][0]["static_configs"][0]["targets"] = [target]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(configuration))
    port = free_port()
    command = [
        "prometheus", f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            url = f"http://127.0.0.1:{port}"
            wait_for(lambda: answers(f"{url}/-/ready"), "Prometheus is not ready")
            yield Prometheus(url)
        finally:
            process.terminate()
            process.wait(COMMAND_S)


def wait_for(condition: Any, what: str, deadline_s: float = SCRAPES_S) -> None:
    ends = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < ends, what
        time.sleep(0.2)


def ended(demo: Demo, operation_id: str) -> bool:
    answer = demo.call("GET", f"pub.chive.admin.getBackfillStatus?id={operation_id}")
    return bool(answer["operation"]["status"] != "running")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Demo, Prometheus]]:
    """The demo with an operation behind it, scraped a dozen times at least."""
    folder = tmp_path_factory.mktemp("watched")
    with running_demo(folder / "demo") as demo:
        target = urllib.parse.urlsplit(demo.metrics_url).netloc
        with prometheus(folder, target) as server:
            started = demo.call(
                "POST", "pub.chive.admin.triggerBackfill", type="didSync", did=demo.accounts[0]
            )
            identifier = started["operation"]["id"]
            wait_for(lambda: ended(demo, identifier), "the operation does not end", OPERATION_S)
            count = 'count_over_time(up{job="chive-indexer"}[5m])'
            wait_for(
                lambda: (rows := server.query(count)) and int(rows[0]["value"][1]) > 12,
                "there are no scrapes",
            )
            yield demo, server


def test_the_metrics_are_named_as_they_should_be(watched: tuple[Demo, Prometheus]):
    with urllib.request.urlopen(watched[0].metrics_url, timeout=30) as response:
        exposition = response.read()
    result = promtool("check", "metrics", stdin=exposition)
    assert (result.returncode, result.stdout + result.stderr) == (0, b"")
    assert b"_created" not in exposition


@pytest.mark.parametrize("panel", PANELS)
def test_every_panel_has_data(panel: dict[str, Any], watched: tuple[Demo, Prometheus]):
    for target in panel["targets"]:
        expression = (
            target["expr"]
            .replace("$__rate_interval", "1m")
            .replace("$job", "chive-indexer")
            .replace("$instance", ".*")
        )
        assert watched[1].query(expression), expression


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: alert["alert"])
def test_every_alert_watches_series_that_exist_and_is_calm(
    alert: dict[str, Any], watched: tuple[Demo, Prometheus]
):
    server = watched[1]
    selectors = re.findall(r"\b((?:chive|process)_\w+|up)\b(\{[^}]*\})?", alert["expr"])
    assert selectors
    for name, labels in selectors:
        assert server.query(f"{name}{labels}"), f"{name}{labels}"
    assert server.query(f"({alert['expr']})") == []


def test_no_alert_is_pending_on_a_healthy_daemon(watched: tuple[Demo, Prometheus]):
    assert watched[1].alerts() == {}


def test_a_scrape_takes_less_than_a_fraction_of_its_interval(watched: tuple[Demo, Prometheus]):
    rows = watched[1].query('avg_over_time(scrape_duration_seconds{job="chive-indexer"}[1m])')
    assert float(rows[0]["value"][1]) < 1.0


def test_a_daemon_that_is_gone_is_noticed(tmp_path: Path):
    with prometheus(tmp_path, f"127.0.0.1:{free_port()}") as server:
        wait_for(lambda: server.alerts() == {"ChiveIndexerDown": "pending"}, "no alert")
