"""Energy: RAPL zones as Linux lays them out, the engine's share of what they count, and hosts that show nothing."""

import dataclasses
import time
from pathlib import Path

import pytest
from powercap import RANGE, write_zone
from prometheus_client import CollectorRegistry
from server_process import ServerProcess

from engine import Counters, EngineStats
from server.energy import POWERCAP, EnergyMeter, RaplDomain, nvidia_gpus, rapl_domains


def stats_of(counters: Counters) -> EngineStats:
    fields = {field.name: 0 for field in dataclasses.fields(EngineStats)}
    return EngineStats(**{**fields, "counters": counters})  # type: ignore[arg-type]


def test_packages_and_their_memory_are_found_and_their_parts_are_not(tmp_path: Path) -> None:
    for zone, name in {
        "intel-rapl:0": "package-0",
        "intel-rapl:0:0": "core",
        "intel-rapl:0:1": "uncore",
        "intel-rapl:0:2": "dram",
        "intel-rapl:1": "package-1",
        "intel-rapl:1:0": "dram",
        "intel-rapl:2": "psys",
        "intel-rapl-mmio:0": "package-0",
    }.items():
        write_zone(tmp_path, zone, name, 5)
    (tmp_path / "intel-rapl").mkdir()  # the control type itself
    assert [domain.domain for domain in rapl_domains(tmp_path)] == ["package-0", "dram-0", "package-1", "dram-1"]


def test_the_counter_wraps_around(tmp_path: Path) -> None:
    domain = RaplDomain(write_zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 3_000_000), "package-0")
    write_zone(tmp_path, "intel-rapl:0", "package-0", RANGE - 1_000_000)
    assert domain.joules() == pytest.approx(2)
    write_zone(tmp_path, "intel-rapl:0", "package-0", 4_000_000)
    assert domain.joules() == pytest.approx(5)


def test_zones_that_cannot_be_read_are_left_out(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 1)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    write_zone(tmp_path, "intel-rapl:1", "package-1", 1)
    (tmp_path / "intel-rapl:1" / "energy_uj").write_text("?")
    assert rapl_domains(tmp_path) == []
    assert rapl_domains(tmp_path / "absent") == []


def test_joules_count_by_the_engines_share_of_the_time(tmp_path: Path) -> None:
    write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    counters = Counters()
    meter = EnergyMeter(rapl_domains(tmp_path), lambda: stats_of(counters), "x")
    registry = CollectorRegistry()
    registry.register(meter)
    labels = {"instance_label": "x", "domain": "package-0"}
    per_token = "lucid_energy_joules_per_token"

    write_zone(tmp_path, "intel-rapl:0", "package-0", 10_000_000)
    assert registry.get_sample_value("lucid_energy_joules_total", labels) == 0  # the engine was idle
    assert registry.get_sample_value(per_token, {"instance_label": "x"}) is None

    counters.begin_step()
    meter.sample()
    before = registry.get_sample_value("lucid_energy_joules_total", labels)
    assert before is not None
    counters.generated_tokens = 8
    for reading in (1, 2):  # a step that lasts longer than the time between readings
        write_zone(tmp_path, "intel-rapl:0", "package-0", (10 + 2 * reading) * 1_000_000)
        meter.sample()
    joules = registry.get_sample_value("lucid_energy_joules_total", labels)
    assert joules == pytest.approx(before + 4)
    assert registry.get_sample_value(per_token, {"instance_label": "x"}) == pytest.approx(joules / 8)

    begin = time.perf_counter()
    meter.sample()
    time.sleep(0.1)
    counters.end_step()
    busy = time.perf_counter() - begin
    time.sleep(0.1)
    write_zone(tmp_path, "intel-rapl:0", "package-0", 24_000_000)
    meter.sample()
    whole = time.perf_counter() - begin
    added = (registry.get_sample_value("lucid_energy_joules_total", labels) or 0) - joules
    assert 10 * 0.1 / whole <= added <= 10 * busy / 0.2


def test_a_counter_that_goes_away_takes_its_metric_with_it(tmp_path: Path) -> None:
    zone = write_zone(tmp_path, "intel-rapl:0", "package-0", 0)
    meter = EnergyMeter(rapl_domains(tmp_path), lambda: stats_of(Counters()), "x")
    (zone / "energy_uj").unlink()
    meter.sample()
    assert list(meter.collect()) == []


def test_hosts_that_show_no_energy_have_no_energy_metrics(server: ServerProcess) -> None:
    shown = "lucid_energy_joules_total{" in server.metrics_text()
    assert shown == bool(rapl_domains(POWERCAP))  # the server under test offloads nothing, so no GPU counts


def test_gpus_are_found_only_through_nvml() -> None:
    assert all(gpu.domain.startswith("gpu-") for gpu in nvidia_gpus())
