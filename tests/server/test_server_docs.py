"""The tables in docs/ say what the code says."""

import math
import re
from pathlib import Path

import numpy as np
from powercap import write_zone
from prometheus_client.metrics_core import Metric
from server_process import ROOT, eventually

from engine import PHASES, Engine, EngineSettings, Request
from knowledge.store import StoreStats
from llama_native import Model
from server import config
from server.energy import EnergyMeter, rapl_domains
from server.engine_metrics import EngineCollector
from server.host_metrics import Facts, ProcessMetrics
from server.knowledge_metrics import KnowledgeMetrics
from server.metrics import Metrics
from server.routes import ROUTES
from server.turns import Turns


def rows(name: str, heading: str, section: str = "") -> list[list[str]]:
    """The cells of the table in docs/`name` whose header begins with `heading`, the first after the line `section`."""
    lines = (ROOT / "docs" / name).read_text().split("\n")
    lines = lines[lines.index(section) :] if section else lines
    start = next(index for index, line in enumerate(lines) if line.startswith(f"| {heading} |"))
    table = []
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            break
        table.append([cell.strip() for cell in line.strip("|").split("|")])
    return table


def test_configuration() -> None:
    expected = [
        [f"`{name}`", v.kind.name, f"`{v.default}`" if v.default else "unset", v.kind.allowed, v.meaning]
        for name, v in config.variables().items()
    ]
    assert rows("CONFIGURATION.md", "variable") == expected


def families(engine: Engine, powercap: Path) -> list[Metric]:
    metrics = Metrics("x")
    meter = EnergyMeter(rapl_domains(powercap), engine.stats, "x")
    facts = Facts(engine.model, Path("model.gguf"), "name", "x")
    knowledge = KnowledgeMetrics(lambda: StoreStats(1, 2, 3, 4, 5, None), lambda: 6.0, "x")
    eventually(lambda: list(knowledge.collect()), "the size of the knowledge base is known")
    for collector in (EngineCollector(engine, Turns(1), "x"), ProcessMetrics("x"), facts, meter, knowledge):
        metrics.watch(collector)
    metrics.phases.labels("x", "k", "p")
    metrics.beside.labels("x", "p")
    metrics.durations.labels("x", "r")
    metrics.requests.labels("x", "r", "s", "f")
    return list(metrics.registry.collect())


def unit_of(name: str) -> str:
    """The unit that a metric's name says."""
    if name.endswith("_info"):
        return ""
    unit = re.search(r"_(duration|seconds|bytes|tokens|joules|ratio)(?:_(per)_(\w+))?$", name)
    return " ".join(filter(None, unit.groups())).replace("duration", "seconds") if unit else "count"


def test_metrics(chat_model_path: Path, tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    with Model(chat_model_path) as model:
        engine = Engine(model, EngineSettings(parallel=1, context=256, calibrate=False))
        engine.start()
        list(engine.submit(Request(np.array([1], np.int32), 1)))
        found = families(engine, tmp_path)
        engine.close()
    documented = {
        name.strip("`"): (kind, unit, set(re.findall(r"`(\w+)`", labels)))
        for name, kind, unit, labels, _ in rows("METRICS.md", "metric")
    }
    actual = {}
    for family in found:
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = {label for sample in family.samples for label in sample.labels} - {"le", "instance_label"}
        unit = "" if family.type == "info" else unit_of(family.name)
        actual[name] = (family.type, unit, labels)
        assert all("instance_label" in sample.labels for sample in family.samples)
        if family.type == "histogram" and unit.startswith("seconds"):
            bounds = sorted({float(sample.labels["le"]) for sample in family.samples if "le" in sample.labels})
            assert bounds[0] == 50e-6 and bounds[-2] == 300 and bounds[-1] == math.inf, name
    assert documented == actual


def test_phases() -> None:
    documented = [phase.strip("`") for phase, _ in rows("METRICS.md", "`phase`")]
    assert documented == list(PHASES)


def test_routes() -> None:
    documented = [(method.strip("`"), path.strip("`")) for method, path, _ in rows("API.md", "method")]
    assert documented == [(route.method, route.path) for route in ROUTES]


def test_parameters() -> None:
    for route in ROUTES:
        if route.body is not None:
            fields = rows("API.md", "field", f"## {route.method} {route.path}")
            documented = [name for field, _, _ in fields for name in re.findall(r"`(\w+)`", field)]
            assert sorted(documented) == sorted(route.body.__struct_fields__), route.path


def test_error_codes() -> None:
    source = "".join(path.read_text() for path in (ROOT / "server").rglob("*.py"))
    used = set(re.findall(r'code="(\w+)"|code: str = "(\w+)"|unavailable\([^\n]*", "(\w+)"', source))
    documented = {name for _, codes, _ in rows("API.md", "status") for name in re.findall(r"`(\w+)`", codes)}
    assert {next(filter(None, groups)) for groups in used} <= documented
    assert documented <= set(re.findall(r'"(\w+)"', source))
