"""This process as the operating system sees it, and what it is made of: program, library, model.

Knows /proc through prometheus_client's collector and the facts of the loaded model; counts nothing itself.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from importlib import metadata
from pathlib import Path

from prometheus_client import Metric, ProcessCollector
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from llama_native import Model, build_info


class ProcessMetrics(Collector):
    """CPU time, memory, threads and files of this process, under Prometheus' usual names."""

    def __init__(self, instance_label: str) -> None:
        self._label = instance_label
        self._process = ProcessCollector(pid=lambda: "self", registry=None)

    def collect(self) -> Iterable[Metric]:
        """Yield every family with our label."""
        for family in self._process.collect():
            family.samples = [
                Sample(sample.name, {"instance_label": self._label}, sample.value) for sample in family.samples
            ]
            yield family
        threads = GaugeMetricFamily("process_threads", "Number of OS threads.", labels=("instance_label",))
        threads.add_metric((self._label,), sum(1 for _ in Path("/proc/self/task").iterdir()))
        yield threads


class Facts(Collector):
    """What is loaded: constant labels, fixed when the model is there."""

    def __init__(self, model: Model, path: Path, served_name: str, instance_label: str) -> None:
        build = build_info()
        self._families = [
            _info(
                "lucid_model",
                "The chat model.",
                instance_label,
                model=served_name,
                file=path.name,
                description=model.description,
                architecture=model.architecture,
                parameters=model.n_params,
                bytes=model.size,
                context_trained=model.n_ctx_train,
            ),
            _info(
                "lucid_build",
                "The program and the libraries it runs on.",
                instance_label,
                version=metadata.version("lucid-llm"),
                llama_cpp=build["llama_version"],
                ggml=build["ggml_version"],
                ggml_commit=build["ggml_commit"],
                python=platform.python_version(),
            ),
        ]

    def collect(self) -> Iterator[Metric]:
        """Yield them."""
        yield from self._families


def _info(name: str, meaning: str, instance_label: str, **facts: object) -> InfoMetricFamily:
    family = InfoMetricFamily(name, meaning, labels=("instance_label",))
    family.add_metric((instance_label,), {key: str(value) for key, value in facts.items()})
    return family
