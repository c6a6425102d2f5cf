"""Small wheels in a local folder that pip installs from, for testing downloads without the package index."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path

from fetch import Wheel


def write_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Wheel:
    """Write a wheel with those files to `folder`; returns its pin."""
    module = package.replace("-", "_")
    info = f"{module}-1.0.dist-info"
    path = folder / f"{module}-1.0-py3-none-any.whl"
    folder.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = path.read_bytes()
    return Wheel(package, "1.0", hashlib.sha256(content).hexdigest(), len(content))
