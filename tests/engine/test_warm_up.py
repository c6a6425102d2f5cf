"""What is ready when an engine is."""

from __future__ import annotations

import sys
from pathlib import Path

from engine_cases import MakeEngine

from llama_native import Model

sys.path.append(str(Path(__file__).parent.parent / "llama_native"))
import tiny


def test_the_first_token_need_not_wait_for_the_vocabulary(tmp_path: Path, make_engine: MakeEngine) -> None:
    with Model(tiny.llama(tmp_path / "llama.gguf")) as model:
        engine = make_engine(model, context=64)
        assert {"eog_tokens", "_pieces"} <= vars(model.vocab).keys()
        engine.close()
