"""A real Prometheus scrapes a real server under load: every scrape is answered, every panel and rule has its data."""

import json
import os
import re
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import load
import pytest
from prometheus import RULES, Prometheus, program
from server_process import ROOT, ServerProcess

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "lucid-llm.json"

#: How long the load runs: enough scrapes for every rate.
SECONDS = 15


class Scraped(NamedTuple):
    """What there is after the load: Prometheus, and how long scrapes of our own took meanwhile, in seconds."""

    prometheus: Prometheus
    server: ServerProcess
    scrapes: list[float]


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scraped]:
    """A server under load for some seconds, scraped every second, and by us ten times a second."""
    folder = tmp_path_factory.mktemp("prometheus")
    program("prometheus")
    documents = folder / "documents"
    documents.mkdir()
    (documents / "press.txt").write_text("Thom Rhubarb invented the screw-printer.")
    (documents / "lane.txt").write_text("The museum stands in Candle Lane.")
    with ServerProcess(
        folder / "server",
        MODEL_PARALLEL="4",
        MODEL_CONTEXT="512",
        DATA_PATH=str(documents),
        KNOWLEDGE_MODE="hybrid",
        KNOWLEDGE_URL=str(folder / "store.sqlite"),
    ) as server:
        server.wait_ready()
        with Prometheus(folder, server.metrics_port) as prometheus:
            over = threading.Event()
            scrapes: list[float] = []

            def scrape() -> None:
                while not over.wait(0.1):
                    begin = time.perf_counter()
                    server.metrics_text()
                    scrapes.append(time.perf_counter() - begin)

            scraper = threading.Thread(target=scrape)
            scraper.start()
            end = time.monotonic() + SECONDS
            asked = [{**shape, "knowledge": False} for shape in load.shapes(25)]
            grounded = {"messages": "Who invented the screw-printer?", "max_tokens": 2}
            asked = [grounded, *asked, grounded]  # apart: a rate needs two scrapes with different counts
            statuses = set()
            try:
                while time.monotonic() < end:
                    statuses |= {served.answer.status for served in load.run(server, asked, clients=6)}
            finally:
                over.set()
                scraper.join()
            assert statuses == {200}
            yield Scraped(prometheus, server, scrapes)


def test_promtool_accepts_the_metrics(server: ServerProcess) -> None:
    server.chat("Hello", max_tokens=2)
    check = subprocess.run(
        [program("promtool"), "check", "metrics"], input=server.metrics_text(), capture_output=True, text=True
    )
    original = ("token_creation_duration ", "inference_response_duration ", "embedding_duration ")  # as they are given
    complaints = [
        line for line in (check.stdout + check.stderr).splitlines() if line.strip() and not line.startswith(original)
    ]
    assert complaints == []
    assert check.returncode in (0, 3)  # 3: it has something to remark


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "config", "prometheus.yml"),
        ("check", "rules", "recording.yml", "alerts.yml"),
        ("test", "rules", "tests.yml"),
    ],
    ids=" ".join,
)
def test_promtool_accepts_configuration_and_rules(arguments: tuple[str, ...]) -> None:
    check = subprocess.run([program("promtool"), *arguments], cwd=RULES, capture_output=True, text=True)
    assert check.returncode == 0, check.stdout + check.stderr


def test_every_scrape_under_load_is_answered(scraped: Scraped, record_property: Callable[[str, object], None]) -> None:
    up = scraped.prometheus.query('up{job="lucid-llm"}[1m]')[0]["values"]
    assert len(up) >= SECONDS / 2
    assert {value for _, value in up} == {"1"}
    (longest,) = scraped.prometheus.values('max_over_time(scrape_duration_seconds{job="lucid-llm"}[1m])')
    scrapes = sorted(scraped.scrapes)
    record_property("longest scrape by Prometheus, seconds", longest)
    p50, p99 = (scrapes[int(len(scrapes) * share)] for share in (0.5, 0.99))
    record_property("own scrapes, p99 seconds", p99)
    print(f"\nscrape_duration_seconds: longest {longest:.3f}")
    print(f"{len(scrapes)} own scrapes: p50 {p50:.3f} p99 {p99:.3f}")


def panels() -> list[tuple[str, str]]:
    """(title, query) of every target of the dashboard, with Grafana's variables filled in."""
    return [
        (panel["title"], target["expr"].replace("$instance_label", ".*").replace("$__rate_interval", "30s"))
        for panel in json.loads(DASHBOARD.read_text())["panels"]
        for target in panel.get("targets", ())
    ]


def missing_here() -> dict[str, str]:
    """What this host or this server cannot provide: a pattern of queries, and the reason."""
    missing = {}
    powercap = Path("/sys/class/powercap")
    if not any(os.access(file, os.R_OK) for file in powercap.glob("intel-rapl:*/energy_uj")):
        missing["lucid_energy|node_rapl_package"] = "no RAPL counters that this user may read"
    if not any(os.access(file, os.R_OK) for file in powercap.glob("intel-rapl:*:*/energy_uj")):
        missing["node_rapl_dram"] = "no RAPL counter of the memory that this user may read"
    if not any(Path("/sys/devices/system/cpu").glob("cpu*/cpufreq")):
        missing["node_cpu_scaling_frequency"] = "no cpufreq"
    if not any(Path("/sys/class/hwmon").glob("*/temp*_input")):
        missing["node_hwmon_temp"] = "no sensors"
    if not any(Path("/sys/class/thermal").glob("thermal_zone*/temp")):
        missing["node_thermal_zone"] = "no thermal zones"
    missing["node_perf"] = "node_exporter runs without --collector.perf, as Debian starts it"
    return missing


def test_every_panel_has_data(scraped: Scraped) -> None:
    empty: dict[str, str] = {}
    for title, query in panels():
        if not scraped.prometheus.values(query):
            reasons = [reason for pattern, reason in missing_here().items() if re.search(pattern, query)]
            empty[f"{title}: {query}"] = reasons[0] if reasons else ""
    print("\nwithout data here:", *(f"  {panel} ({reason})" for panel, reason in empty.items()), sep="\n")
    assert [panel for panel, reason in empty.items() if not reason] == []


def rules(kind: str) -> list[dict[str, Any]]:
    """The rules of one kind, as promtool would read them: `record` or `alert`."""
    text = "".join((RULES / name).read_text() for name in ("recording.yml", "alerts.yml"))
    return [{kind: name} for name in re.findall(rf"- {kind}: (\S+)", text)]


def test_recording_rules_have_data_and_no_alert_fires(scraped: Scraped) -> None:
    for rule in rules("record"):
        if "energy" not in rule["record"] or not re.search("lucid_energy", "|".join(missing_here())):
            assert scraped.prometheus.values(rule["record"]), rule
    assert len(rules("alert")) >= 5
    assert scraped.prometheus.query('ALERTS{alertstate="firing"}') == []


def test_the_dashboard_reads_only_metrics_that_are_documented() -> None:
    documented = set(re.findall(r"^\| `(\w+)` \|", (ROOT / "docs" / "METRICS.md").read_text(), re.MULTILINE))
    suffixes = ("_bucket", "_sum", "_count", "_info")
    for _, query in panels():
        for name in re.findall(r"\b(?:lucid|process|token|inference|embedding)_\w+", query):
            plain = next((name.removesuffix(suffix) for suffix in suffixes if name.endswith(suffix)), name)
            assert {name, plain} & documented, name
