"""Devices and facts about the build."""

from __future__ import annotations

import re

import llama_native as ln


def test_there_is_a_cpu() -> None:
    cpu = [device for device in ln.devices() if device.type == ln.DeviceType.CPU]
    assert len(cpu) == 1
    assert cpu[0].name == "CPU"
    assert cpu[0].memory_total > 1 << 28


def test_system_info_names_the_cpu_features() -> None:
    assert "CPU : " in ln.system_info()


def test_build_info() -> None:
    info = ln.build_info()
    assert info["supports_mmap"] is True
    assert info["max_sequences"] == 256
    assert str(info["ggml_commit"])
    assert str(info["llama_version"])[0].isdigit()
    assert re.fullmatch("[0-9a-f]{12}", str(info["kernels_version"]))
