"""Large buffers ask for huge pages."""

from __future__ import annotations

import gc
import re
from pathlib import Path

import pytest

import llama_native as ln

SETTING = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def advised_bytes() -> int:
    """Bytes of this process's memory for which huge pages were asked for: flag `hg` in proc(5), smaps."""
    parts = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", Path("/proc/self/smaps").read_text(), flags=re.MULTILINE)
    advised = (part for part in parts if re.search(r"^VmFlags:.* hg\b", part, re.MULTILINE))
    sizes = (re.search(r"^Size: +([0-9]+) kB$", part, re.MULTILINE) for part in advised)
    return sum(1024 * int(size[1]) for size in sizes if size)


@pytest.mark.skipif(not SETTING.exists(), reason="this kernel has no transparent huge pages")
def test_a_kv_cache_lies_in_huge_pages(chat_model_path: Path) -> None:
    with ln.Model(chat_model_path) as model:
        gc.collect()  # contexts of other tests
        before = advised_bytes()
        with ln.Context(model, ln.ContextParams(n_ctx=4096, n_batch=32, n_ubatch=32)):
            grown = advised_bytes() - before
    cells = 4096 * 2 * 30 * 192 * 2  # keys and values of 30 layers, 3 heads of 64 numbers, 16 bits each
    assert 0.95 * cells < grown < 1.5 * cells
