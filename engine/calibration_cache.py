"""Keeps measurements in the user's cache folder, one JSON file for each key.

Knows files, not what is in them. A folder that cannot be used only costs the next start its seconds.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

log = logging.getLogger(__name__)


def path_for(key: dict[str, object]) -> Path | None:
    """The file for `key`; None if this user has no cache folder (no HOME, as in some containers)."""
    cache, home = os.environ.get("XDG_CACHE_HOME"), os.environ.get("HOME")
    if not cache and not home:
        return None
    digest = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()[:20]
    folder = Path(cache) if cache else Path(home or "", ".cache")
    return folder / "lucid-llm" / "calibration" / f"{digest}.json"


def read(path: Path | None) -> dict[str, Any] | None:
    """What was kept in `path`; None if there is nothing that can be read."""
    if path is None:
        return None
    try:
        data = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        log.warning("the calibration in %s cannot be read (%s); measuring again", path, error)
        return None
    return data if isinstance(data, dict) else None


def write(path: Path | None, data: dict[str, Any]) -> None:
    """Keep `data` in `path`, which appears complete or not at all."""
    if path is None:
        return
    temporary = path.with_suffix(f".{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(data, indent=1), "utf-8")
        temporary.replace(path)
    except OSError as error:
        log.warning("the calibration cannot be kept in %s: %s", path, error)
