"""What was measured, as far as it can be known: samples of two builds, models or machines must not mix.

Knows names and values, and how a model file is told from another; what a target says of itself it says as `identify`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from bench.characterize.target import Target

#: A file's content is told by so many pieces of so many bytes, evenly spread, its first and last bytes among them.
PIECES: Final = 16
PIECE_BYTES: Final = 2**20

#: What an engine says of its plan and may change from start to start without being another.
_PASSING: Final = ("calibration", "calibrated", "kv_cells")


def identify(target: Target, machine: Mapping[str, Any], model: Path | None) -> dict[str, str]:
    """Machine, software, model and settings, by name. `model`: the GGUF file, where there is one."""
    found = {"processor": f"{machine['cpu']}, {machine['cores']} cores, {' '.join(machine['extensions'])}"}
    found |= target.identify()
    found |= {
        f"engine's {name.replace('_', ' ')}": str(value)
        for name, value in target.describe().items()
        if name not in _PASSING
    }
    if model is not None:
        found["model file"] = f"{model.name}, {model.stat().st_size} bytes, content {content(model)}"
    return found


def content(path: Path) -> str:
    """A digest of a file's size and of pieces of it, as hexadecimal: quick whatever the size."""
    size = path.stat().st_size
    digest = hashlib.blake2b(str(size).encode(), digest_size=8)
    with path.open("rb") as file:
        for index in range(PIECES):
            file.seek(max(0, size - PIECE_BYTES) * index // (PIECES - 1))
            digest.update(file.read(PIECE_BYTES))
    return digest.hexdigest()


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> Iterator[str]:
    """A line for everything that is not as it was."""
    for name in dict.fromkeys((*before, *now)):
        if before.get(name) != now.get(name):
            yield f"{name}: was {before.get(name, 'not known')}, is {now.get(name, 'not known')}"
