"""Python objects for llama.cpp, through cffi: the only code in this project that touches C.

Small typed objects own C pointers (Model, Context, Batch, Sampler, ...). Errors are exceptions, one per kind of
failure. What llama.cpp would end the process for is checked before the call or caught at the boundary. The package
knows models, tokens and sequences; it knows nothing of requests, chats or documents.
"""

from llama_native import samplers
from llama_native.backend import Device, build_info, devices, system_info
from llama_native.batch import Batch
from llama_native.context import Context
from llama_native.context_params import ContextParams, kv_cache_bytes
from llama_native.control_groups import available_cpus, group_folders
from llama_native.embedding import embed
from llama_native.enums import (
    Attention,
    DeviceType,
    FileType,
    FlashAttention,
    GgmlType,
    LoadMode,
    Pooling,
    RopeScaling,
    RopeType,
    SplitMode,
    ThreadPriority,
    TokenAttr,
    VocabType,
)
from llama_native.errors import (
    ClosedError,
    ContextError,
    DecodeAborted,
    DecodeError,
    DecodeFailed,
    GrammarError,
    InvalidBatch,
    KVCacheFull,
    LlamaError,
    LoadCancelled,
    LoraError,
    ModelLoadError,
    ModelNotFound,
    NotGGUF,
    QuantizeError,
    RpcError,
    SamplingError,
    SequenceError,
    StateError,
    TokenizeError,
    TruncatedGGUF,
    UnsupportedModel,
)
from llama_native.generate import GeneratedToken, generate
from llama_native.logits import argmax, top_logprobs
from llama_native.lora import LoraAdapter
from llama_native.mask import Mask, mask_words
from llama_native.memory import Memory
from llama_native.model import Model
from llama_native.model_params import ModelParams
from llama_native.quantize import quantize
from llama_native.relay import Relay, RelayEnd, TokenTexts
from llama_native.results import Performance, StepResult
from llama_native.rpc import add_rpc_server
from llama_native.sampler import Sampler
from llama_native.teams import release_compute_threads
from llama_native.threadpool import ThreadPool
from llama_native.token_queue import Outbox, TokenQueue
from llama_native.utf8 import Utf8Decoder
from llama_native.vocab import Vocab

__all__ = [
    "Attention",
    "Batch",
    "ClosedError",
    "Context",
    "ContextError",
    "ContextParams",
    "DecodeAborted",
    "DecodeError",
    "DecodeFailed",
    "Device",
    "DeviceType",
    "FileType",
    "FlashAttention",
    "GeneratedToken",
    "GgmlType",
    "GrammarError",
    "InvalidBatch",
    "KVCacheFull",
    "LlamaError",
    "LoadCancelled",
    "LoadMode",
    "LoraAdapter",
    "LoraError",
    "Mask",
    "Memory",
    "Model",
    "ModelLoadError",
    "ModelNotFound",
    "ModelParams",
    "NotGGUF",
    "Outbox",
    "Performance",
    "Pooling",
    "QuantizeError",
    "Relay",
    "RelayEnd",
    "RopeScaling",
    "RopeType",
    "RpcError",
    "Sampler",
    "SamplingError",
    "SequenceError",
    "SplitMode",
    "StateError",
    "StepResult",
    "ThreadPool",
    "ThreadPriority",
    "TokenAttr",
    "TokenQueue",
    "TokenTexts",
    "TokenizeError",
    "TruncatedGGUF",
    "UnsupportedModel",
    "Utf8Decoder",
    "Vocab",
    "VocabType",
    "add_rpc_server",
    "argmax",
    "available_cpus",
    "build_info",
    "devices",
    "embed",
    "generate",
    "group_folders",
    "kv_cache_bytes",
    "mask_words",
    "quantize",
    "release_compute_threads",
    "samplers",
    "system_info",
    "top_logprobs",
]
