"""How results are shown and kept: a table in the terminal, the same as Markdown, JSON, and what machine it was."""

from __future__ import annotations

import json
import math
import os
import platform
import signal
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NoReturn

from tqdm import tqdm


def machine() -> dict[str, Any]:
    """Cores this process may use, CPU model and its vector extensions, memory in bytes, kernel, Python."""
    cpu = _cpuinfo()
    flags = set(cpu.get("flags", "").split())
    wanted = ("avx", "avx2", "fma", "f16c", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8")
    return {
        "cpu": cpu.get("model name", platform.processor() or platform.machine()),
        "cores": len(os.sched_getaffinity(0)),
        "extensions": [name for name in wanted if name in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _cpuinfo() -> dict[str, str]:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return {}
    found: dict[str, str] = {}
    for line in lines:
        name, _, value = line.partition(":")
        found.setdefault(name.strip(), value.strip())
    return found


def machine_line(description: dict[str, Any]) -> str:
    """The machine in one line."""
    gib = description["memory_bytes"] / 2**30
    return (
        f"{description['cpu']}, {description['cores']} cores ({' '.join(description['extensions'])}), {gib:.0f} GiB, "
        f"Linux {description['kernel']}, Python {description['python']}"
    )


def cell(value: object) -> str:
    """A value as a table shows it: three significant digits for floats, a dash for None and NaN."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "-"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return str(value)


def table(header: Sequence[str], rows: Iterable[Sequence[object]], markdown: bool = False) -> str:
    """Rows under a header as aligned text or as a Markdown table; the first column is aligned left, others right."""
    cells = [list(header), *([cell(value) for value in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(header))]

    def line(row: Sequence[str]) -> str:
        padded = [
            value.ljust(width) if column == 0 else value.rjust(width)
            for column, (value, width) in enumerate(zip(row, widths, strict=True))
        ]
        return f"| {' | '.join(padded)} |" if markdown else "  ".join(padded).rstrip()

    if markdown:
        rule = "| " + " | ".join("-" * width if i == 0 else "-" * (width - 1) + ":" for i, width in enumerate(widths))
        return "\n".join([line(cells[0]), f"{rule} |", *(line(row) for row in cells[1:])])
    return "\n".join([line(cells[0]), "  ".join("-" * width for width in widths), *(line(row) for row in cells[1:])])


def write_json(path: str | Path, command: str, arguments: dict[str, Any], results: object) -> None:
    """Write machine, command, arguments and results; the file appears complete or not at all."""
    target = Path(path)
    document = {"command": command, "arguments": arguments, "machine": machine(), "results": results}
    partial = target.with_name(f"{target.name}.partial")
    partial.write_text(json.dumps(_finite(document), indent=2) + "\n")
    partial.replace(target)


def _finite(value: object) -> object:
    """NaN has no JSON form: null instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {str(key): _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


def progress(total: int, what: str, unit: str = "request") -> tqdm[Any]:
    """A progress bar on stderr."""
    return tqdm(total=total, desc=what, unit=unit, file=sys.stderr, leave=False, dynamic_ncols=True)


def advance(bar: tqdm[Any], reached: float) -> None:
    """Move a progress bar to what is reached, at most its end."""
    bar.update(min(int(reached), int(bar.total or 0)) - bar.n)


def say(message: str) -> None:
    """A line on stderr that leaves a progress bar whole."""
    tqdm.write(message, file=sys.stderr)


def end_cleanly() -> None:
    """Make SIGTERM end the process as an exception does, so that servers we started are stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


def fail(message: str) -> NoReturn:
    """Say on stderr what was wrong and leave with exit code 2 (usage or a missing tool)."""
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)
