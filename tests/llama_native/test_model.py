"""Loading models: what they say about themselves, and every way a load can fail."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

import llama_native as ln
from tests.llama_native import tiny


def test_facts_of_the_demo_model(chat_model: ln.Model) -> None:
    assert chat_model.architecture == "llama"
    assert (chat_model.n_layer, chat_model.n_embd, chat_model.n_head, chat_model.n_head_kv) == (30, 576, 9, 3)
    assert chat_model.n_params == 134_515_008
    assert 90e6 < chat_model.size < chat_model.path.stat().st_size
    assert chat_model.n_ctx_train == 8192
    assert chat_model.ftype == ln.FileType.Q4_1
    assert "Q4_1" in chat_model.description
    assert chat_model.rope_type == ln.RopeType.NORM
    assert chat_model.n_swa == 0
    assert chat_model.can_generate
    assert chat_model.has_decoder
    assert not (chat_model.has_encoder or chat_model.is_recurrent or chat_model.is_hybrid or chat_model.is_diffusion)
    assert chat_model.pooling == ln.Pooling.UNSPECIFIED
    assert chat_model.decoder_start_token is None


def test_metadata_and_chat_template(chat_model: ln.Model, tiny_model: ln.Model) -> None:
    assert chat_model.metadata["general.architecture"] == "llama"
    template = chat_model.chat_template()
    assert template is not None
    assert template == chat_model.metadata["tokenizer.chat_template"]
    assert "<|im_start|>" in template
    assert chat_model.chat_template("no such template") is None
    assert tiny_model.chat_template() is None


def test_an_embedding_model_is_told_apart(embedding_model: ln.Model) -> None:
    assert embedding_model.architecture == "bert"
    assert not embedding_model.can_generate
    assert embedding_model.pooling == ln.Pooling.MEAN


def test_a_recurrent_model_is_told_apart(mamba_model: ln.Model) -> None:
    assert mamba_model.is_recurrent
    assert mamba_model.can_generate


def test_missing_directory_empty_foreign_truncated(tmp_path: Path, tiny_path: Path) -> None:
    with pytest.raises(ln.ModelNotFound, match="no such file"):
        ln.Model(tmp_path / "missing.gguf")
    with pytest.raises(ln.ModelNotFound, match="directory"):
        ln.Model(tmp_path)
    path = tmp_path / "model.gguf"
    path.write_bytes(b"")
    with pytest.raises(ln.NotGGUF, match="empty"):
        ln.Model(path)
    path.write_bytes(b"PK\3\4 a zip file")
    with pytest.raises(ln.NotGGUF, match="not a GGUF"):
        ln.Model(path)
    path.write_bytes(tiny_path.read_bytes()[:-100_000])
    with pytest.raises(ln.TruncatedGGUF, match="ends at byte"):
        ln.Model(path)


def test_unknown_architecture(tmp_path: Path) -> None:
    with pytest.raises(ln.UnsupportedModel, match="unknown model architecture: 'martian'"):
        ln.Model(tiny.llama(tmp_path / "martian.gguf", architecture="martian"))


def test_unknown_tokenizer(tmp_path: Path, tiny_path: Path) -> None:
    path = tmp_path / "model.gguf"
    key = b"tokenizer.ggml.model"
    data = tiny_path.read_bytes()
    at = data.index(key) + len(key) + 4 + 8
    path.write_bytes(data[:at] + b"alien" + data[at + 5 :])
    with pytest.raises(ln.UnsupportedModel, match="unknown tokenizer: 'alien'"):
        ln.Model(path)


def test_progress_reaches_one(chat_model_path: Path) -> None:
    seen: list[float] = []
    ln.Model(chat_model_path, progress=seen.append).close()
    assert seen == sorted(seen)
    assert (seen[0], seen[-1]) == (0.0, 1.0)


def test_progress_can_cancel(chat_model_path: Path) -> None:
    with pytest.raises(ln.LoadCancelled):
        ln.Model(chat_model_path, progress=lambda fraction: fraction < 0.5)


def test_an_exception_in_progress_comes_out(chat_model_path: Path) -> None:
    def progress(fraction: float) -> None:
        raise KeyboardInterrupt(fraction)

    with pytest.raises(KeyboardInterrupt):
        ln.Model(chat_model_path, progress=progress)


def test_vocab_only(tiny_path: Path) -> None:
    with ln.Model(tiny_path, ln.ModelParams(vocab_only=True)) as model:
        assert model.vocab.n_tokens == tiny.N_VOCAB
        with pytest.raises(ln.ContextError, match="vocab_only"):
            ln.Context(model)


@pytest.mark.parametrize("mode", [ln.LoadMode.NONE, ln.LoadMode.MMAP])
def test_load_modes_give_the_same_model(mode: ln.LoadMode, tiny_path: Path, tiny_model: ln.Model) -> None:
    with ln.Model(tiny_path, ln.ModelParams(load_mode=mode, check_tensors=True)) as model:
        assert model.n_params == tiny_model.n_params


def test_kv_overrides(tiny_path: Path) -> None:
    params = ln.ModelParams(
        kv_overrides={"llama.context_length": 77, "general.name": "renamed", "llama.rope.freq_base": 5000.0}
    )
    with ln.Model(tiny_path, params) as model:
        assert model.n_ctx_train == 77
    for bad in ({"k" * 128: 1}, {"": 1}, {"key": "v" * 128}, {"key": None}):
        with pytest.raises(ValueError, match="kv_overrides"):
            ln.Model(tiny_path, ln.ModelParams(kv_overrides=bad))  # type: ignore[arg-type]


def test_devices(tiny_path: Path) -> None:
    ln.Model(tiny_path, ln.ModelParams(devices=())).close()
    with pytest.raises(ValueError, match="no device 'warp drive'; this build has: CPU"):
        ln.Model(tiny_path, ln.ModelParams(devices=("warp drive",)))


def test_tensor_split(tiny_path: Path) -> None:
    ln.Model(tiny_path, ln.ModelParams(tensor_split=(1.0,))).close()
    for bad in ((-1.0,), (float("nan"),), (1.0,) * 10000):
        with pytest.raises(ValueError, match="tensor_split"):
            ln.Model(tiny_path, ln.ModelParams(tensor_split=bad))


def test_use_after_close(tiny_path: Path) -> None:
    model = ln.Model(tiny_path)
    vocab = model.vocab
    model.close()
    model.close()
    assert model.closed
    assert vocab.closed
    properties = [name for name, value in vars(ln.Model).items() if isinstance(value, property)]
    from_file = {"architecture", "pooling"}
    for name in set(properties) - from_file:
        with pytest.raises(ln.ClosedError, match="Model is closed"):
            getattr(model, name)
    with pytest.raises(ln.ClosedError):
        ln.Context(model)
    with pytest.raises(ln.ClosedError):
        vocab.tokenize("x")


def test_params_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ln.ModelParams().n_gpu_layers = 1  # type: ignore[misc]
