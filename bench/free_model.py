"""A model that costs next to nothing: what is left of a token's time is the service's.

One layer of 32 numbers with random weights over a vocabulary of bytes, so that a decode step of many sequences takes
some ten microseconds. What it says is noise. Written with the `gguf` package; knows nothing of servers.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import gguf
import numpy as np

WIDTH: Final = 32
CONTEXT: Final = 8192

#: The token of a letter; with a large logit bias, an answer is that letter over and over.
LETTER: Final = 3 + ord("a")


def write(path: Path) -> Path:
    """Write the model to `path` and return it."""
    random = np.random.default_rng(1)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(1)
    writer.add_feed_forward_length(WIDTH)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH)
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    tokens = [b"<unk>", b"<s>", b"</s>", *(f"<0x{byte:02X}>".encode() for byte in range(256))]
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL, *[gguf.TokenType.BYTE] * 256]
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * len(tokens))
    writer.add_token_types(kinds)
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, np.float32))
    for name, rows in {"token_embd": len(tokens), "output": len(tokens), **dict.fromkeys(_MATRICES, WIDTH)}.items():
        writer.add_tensor(f"{name}.weight", random.normal(0, 0.1, (rows, WIDTH)).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


_MATRICES: Final = tuple(
    f"blk.0.{name}" for name in ("attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down")
)
