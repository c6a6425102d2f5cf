"""Energy: RAPL zones as Linux lays them out, the engine's share of what they count, and hosts that show nothing."""

import dataclasses
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pynvml
import pytest
from powercap import RANGE, write_zone
from prometheus_client import CollectorRegistry
from server_process import ROOT, ServerProcess

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


@pytest.fixture(scope="module")
def has_driver() -> bool:
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError_LibraryNotFound:
        return False
    return True


def test_a_host_without_the_driver_has_no_gpu_figures(has_driver: bool, caplog: pytest.LogCaptureFixture) -> None:
    if has_driver:
        pytest.skip("this host has NVIDIA's driver")
    caplog.set_level("INFO", "server.energy")
    assert nvidia_gpus() == []
    assert "no energy figures of GPUs: NVML Shared Library Not Found" in caplog.text


def test_a_gpu_counts_joules(has_driver: bool) -> None:
    gpus = nvidia_gpus() if has_driver else []
    if not gpus:
        pytest.skip("no NVIDIA GPU that counts its energy")
    begin = time.perf_counter()
    time.sleep(1)
    for gpu in gpus:
        watts = gpu.joules() / (time.perf_counter() - begin)
        assert 1 < watts < 3000 and gpu.domain.startswith("gpu-")  # an idle one takes some 10 W, none takes 3 kW


#: Reads three GPUs through the library of nvml.c: the second does not count energy, the first is lost in the end.
GPUS = """
import json, logging, pathlib, sys
from server.energy import nvidia_gpus
logging.basicConfig(level="INFO")
figures = pathlib.Path(sys.argv[1])
figures.write_text("1000\\nerror 3\\n7000000000000\\n")
gpus = nvidia_gpus()
figures.write_text("3500\\nerror 3\\n7000000000250\\n")
joules = [(gpu.domain, gpu.joules(), gpu.joules()) for gpu in gpus]
figures.write_text("error 15\\nerror 3\\n7000000001250\\n")
try:
    gpus[0].joules()
except OSError as error:
    lost = str(error)
print(json.dumps([joules, lost, gpus[1].joules()]))
"""


def test_what_nvml_says_in_joules(tmp_path: Path) -> None:
    source, library = Path(__file__).with_name("nvml.c"), tmp_path / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-Wall", "-Werror", source, "-o", library], check=True)
    figures = tmp_path / "figures"
    environ = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path), "NVML_FIGURES": str(figures)}
    done = subprocess.run(
        [sys.executable, "-c", GPUS, str(figures)], cwd=ROOT, env=environ, capture_output=True, text=True, check=True
    )
    joules, lost, later = json.loads(done.stdout)
    assert joules == [["gpu-0", 2.5, 0.0], ["gpu-2", 0.25, 0.0]]
    assert (lost, later) == ("GPU is lost", 1.0)
    assert "no energy figures of GPU 1: Not Supported" in done.stderr
