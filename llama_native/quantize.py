"""Quantizing: writing a model file again with smaller weights."""

from __future__ import annotations

import os
from pathlib import Path

from llama_native import gguf, log
from llama_native.enums import FileType
from llama_native.errors import ModelLoadError, QuantizeError, failure_reason
from llama_native.ffi import C, ffi


def quantize(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    ftype: FileType,
    n_threads: int = 0,
    allow_requantize: bool = False,
    quantize_output: bool = True,
    pure: bool = False,
) -> None:
    """Writes the GGUF model `source` to `target` in the weights format `ftype`.

    :param n_threads: 0 means one per CPU.
    :param allow_requantize: accept a source whose weights are quantized already; quality suffers.
    :param quantize_output: quantize the output layer too.
    :param pure: use one type for all tensors, not llama.cpp's mixture.
    :raises QuantizeError: the source cannot be read or is quantized already, the target cannot be written; the
        message carries llama.cpp's reason. `target` is then unchanged.
    """
    log.sync_level()
    source, target = Path(source), Path(target)
    if ftype == FileType.GUESSED or not 0 <= n_threads <= C.GGML_MAX_N_THREADS:
        raise ValueError(f"ftype {ftype!r} or n_threads {n_threads} is out of range")
    try:
        gguf.read_header(source)
    except ModelLoadError as error:
        raise QuantizeError(str(error)) from error
    if not target.parent.is_dir():
        raise QuantizeError(f"{target.parent}: no such directory")
    params = ffi.new("llama_model_quantize_params *", C.llama_model_quantize_default_params())
    params.nthread = n_threads
    params.ftype = ftype
    params.allow_requantize = allow_requantize
    params.quantize_output_tensor = quantize_output
    params.pure = pure
    partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
    try:
        if not C.lucid_quantize(os.fsencode(source), os.fsencode(partial), params):
            raise QuantizeError(f"{source}: {failure_reason('llama.cpp gave no reason')}")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
