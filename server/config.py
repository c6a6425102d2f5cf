"""Every environment variable of the server, read once into one frozen dataclass.

Each variable is declared once, as a field of `Config`: its name (the field's, in capitals), type, default, allowed
values and meaning. `python -m server --help` prints the declarations and docs/CONFIGURATION.md is checked against
them. Knows environment variables and their values; opens no file and no port.
"""

from __future__ import annotations

import difflib
import functools
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, get_type_hints

from server import kinds
from server.kinds import Address, Variable


class ConfigError(Exception):
    """A variable that cannot be used; the message names it, its value and what is allowed."""


_CHOSEN = "0 = chosen"
_QUANTIZED = ("q8_0", "q4_0")


@dataclass(frozen=True, slots=True)
class Config:
    """The server's configuration. Fields are the environment variables of the same name in capitals."""

    api_keys: Annotated[
        tuple[bytes, ...] | None,
        Variable(
            kinds.KEYS, "", "Requests need one of these as `Authorization: Bearer KEY`; unset: none.", secret=True
        ),
    ] = field(repr=False)
    """Their SHA-256 digests."""
    api_keys_file: Annotated[
        Path | None,
        Variable(kinds.PATH, "", "A file of further keys, one a line, `#` for comments; read again when it changes."),
    ]
    client_timeout: Annotated[
        float,
        Variable(
            kinds.seconds(least=0.1),
            "60",
            "A client whose request's body is not there by then, or that is so far behind with reading, is given up.",
        ),
    ]
    cors_origins: Annotated[
        tuple[str, ...] | None,
        Variable(kinds.ORIGINS, "", "Origins whose pages may use the API from a browser; unset: none."),
    ]
    data_path: Annotated[
        Path,
        Variable(kinds.FOLDER, "data", "Folder of documents to answer from, with all folders in it."),
    ]
    embedding_model: Annotated[
        Path,
        Variable(
            kinds.PATH,
            "model/embed.gguf",
            "The embedding model, a GGUF file; without it there are no embeddings and no search.",
        ),
    ]
    engine_stall_seconds: Annotated[
        float | None,
        Variable(
            kinds.seconds(note="0 = for ever"),
            "",
            "An engine that has work and makes no step for this long is given up and its process replaced; "
            "unset: 120, more for slow models.",
        ),
    ]
    graceful_timeout: Annotated[
        float,
        Variable(
            kinds.seconds(),
            "25",
            "After SIGTERM, answers under way get this long to finish; then they end with an error event.",
        ),
    ]
    http_address: Annotated[Address, Variable(kinds.ADDRESS, "127.0.0.1:8080", "Where the API listens.")]
    http_workers: Annotated[
        int,
        Variable(
            kinds.integer(1, 4096),
            "128",
            "Generations that may be in flight over HTTP at once, running and waiting together.",
        ),
    ]
    instance_label: Annotated[
        str, Variable(kinds.LABEL, "default", "Value of the label `instance_label` of every metric.")
    ]
    knowledge_chunk_overlap: Annotated[
        int | None,
        Variable(
            kinds.integer(0, 1024),
            "",
            "Most tokens that neighbouring chunks of a document share; unset: 32, or a quarter of a chunk if less.",
        ),
    ]
    knowledge_chunk_tokens: Annotated[
        int,
        Variable(kinds.integer(16, 2048), "200", "Most tokens of a chunk, as the embedding model counts them."),
    ]
    knowledge_context_tokens: Annotated[
        int,
        Variable(
            kinds.integer(1),
            "1024",
            "Most tokens of found passages, as the chat model counts them, counted once; a prompt with {context} twice "
            "has them twice.",
        ),
    ]
    knowledge_document_prefix: Annotated[
        str | None,
        Variable(
            kinds.PREFIX,
            "",
            "Put before a document's text for the embedding model; unset: as the model's family wants.",
        ),
    ]
    knowledge_document_weight: Annotated[
        float,
        Variable(
            kinds.number(0, 1),
            "0.35",
            "Share of its document's beginning in what a chunk is found by; 0: a chunk counts by itself.",
        ),
    ]
    knowledge_file_bytes: Annotated[
        int, Variable(kinds.integer(1), "33554432", "Larger documents are skipped, with a warning.")
    ]
    knowledge_mode: Annotated[
        str,
        Variable(
            kinds.choice("hybrid", "dense", "lexical", "off"),
            "hybrid",
            "How documents are searched for a chat request that does not say; off reads no documents at all.",
        ),
    ]
    knowledge_prompt: Annotated[
        str,
        Variable(
            kinds.TEMPLATE_LINES,
            r"Answer the question with the help of the following text.\n\n{context}\n\n{context}\n\n{sentence}\n\n"
            "Question: {query}",
            r"The last user message of a chat for which passages were found; {sentence} is the one that the question "
            r"is most likely about, \n a line break.",
        ),
    ]
    knowledge_query_prefix: Annotated[
        str | None,
        Variable(
            kinds.PREFIX, "", "Put before a question for the embedding model; unset: as the model's family wants."
        ),
    ]
    knowledge_threshold: Annotated[
        float,
        Variable(kinds.number(-1, 1), "0.3", "Least similarity of a passage to the question."),
    ]
    knowledge_top_k: Annotated[int, Variable(kinds.integer(1, 100), "3", "Most passages for one question.")]
    knowledge_url: Annotated[
        str | None,
        Variable(
            kinds.STORE,
            "",
            "Where chunks and vectors are kept: in a file, or in PostgreSQL for several servers; unset: a file in the "
            "user's data folder.",
            secret=True,
        ),
    ] = field(repr=False)
    knowledge_watch: Annotated[bool, Variable(kinds.SWITCH, "on", "Follow changes in DATA_PATH while the server runs.")]
    loading_stall_seconds: Annotated[
        float,
        Variable(
            kinds.seconds(note="0 = for ever"),
            "900",
            "A worker that loads the model and gets no further for this long ends with exit code 3, and the server "
            "with it; to be longer than a look at every weight takes.",
        ),
    ]
    log_format: Annotated[
        str, Variable(kinds.choice("human", "json"), "human", "Log lines for people, or one JSON object a line.")
    ]
    log_level: Annotated[
        str, Variable(kinds.choice("debug", "info", "warning", "error"), "info", "Least severe messages to log.")
    ]
    main_gpu: Annotated[
        int, Variable(kinds.integer(0, 63), "0", "Index of the GPU for what is not split over several.")
    ]
    max_body_bytes: Annotated[
        int, Variable(kinds.integer(1024), "16777216", "Largest request body in bytes; else 413.")
    ]
    metrics: Annotated[
        bool, Variable(kinds.SWITCH, "on", "Whether requests are counted; off only to measure what counting costs.")
    ]
    model_alias: Annotated[
        str, Variable(kinds.LABEL, "rusty_llm", "Model id that is served; the file's name works too.")
    ]
    model_calibrate: Annotated[
        bool,
        Variable(kinds.SWITCH, "on", "Measure at the first start what is fastest here, and remember it for this user."),
    ]
    model_context: Annotated[
        int,
        Variable(
            kinds.zero_or(64, "chosen"),
            "0",
            "Tokens that one request may use; 0 for 4096, or fewer where model or memory have less room.",
        ),
    ]
    model_flash_attention: Annotated[
        str,
        Variable(
            kinds.choice("auto", "on", "off"), "auto", "Flash attention; auto takes what was measured to be faster."
        ),
    ]
    model_gpu_layers: Annotated[
        int, Variable(kinds.integer(0, 10000), "0", "Layers of the model to keep on GPUs and RPC servers.")
    ]
    model_kernels: Annotated[
        bool,
        Variable(
            kinds.SWITCH,
            "on",
            "Lucid's own kernels on x86 CPUs: Q4_1 and Q8_0 weights of both models, and flash attention over an f16 "
            "cache; off takes llama.cpp's. Where a build finds a CUDA or Vulkan GPU, Q4_1 weights of layers left on "
            "the CPU stay llama.cpp's; one with --blas or --clblast prefills Q4_1 by BLAS only when off.",
        ),
    ]
    model_kv_cells: Annotated[
        int,
        Variable(
            kinds.integer(0, note="0 = enough for all"),
            "0",
            "Tokens in the KV cache over all requests; they wait when it is full. Needs MODEL_KV_LAYOUT=unified.",
        ),
    ]
    model_kv_layout: Annotated[
        str,
        Variable(
            kinds.choice("auto", "unified", "streams"),
            "auto",
            "One pool of KV cells for all requests, or a stream for each.",
        ),
    ]
    model_kv_type: Annotated[
        str,
        Variable(
            kinds.choice("f16", "bf16", "f32", *_QUANTIZED),
            "f16",
            "Type of the cached keys and values; q8_0 and q4_0 need flash attention.",
        ),
    ]
    model_max_token: Annotated[
        int,
        Variable(
            kinds.integer(1), "128", "Longest answer in tokens, for requests that do not say max_tokens themselves."
        ),
    ]
    model_parallel: Annotated[
        int,
        Variable(
            kinds.integer(0, 256, note=_CHOSEN),
            "0",
            "Requests that are computed at once. Chosen: one a thread, at least 8, at most 32; 16 with a GPU; fewer "
            "where memory is short.",
        ),
    ]
    model_path: Annotated[Path, Variable(kinds.PATH, "model/model.gguf", "The chat model, a GGUF file.")]
    model_prompt_template: Annotated[
        str | None,
        Variable(
            kinds.TEMPLATE,
            "",
            "The whole prompt, with {query} for the last user message, instead of the model's chat template.",
        ),
    ]
    model_rpc: Annotated[
        tuple[Address, ...] | None,
        Variable(
            kinds.SERVERS,
            "",
            "Machines that take layers too, each with ggml-rpc-server. Needs a build with --rpc, and MODEL_GPU_LAYERS.",
        ),
    ]
    model_split_mode: Annotated[
        str,
        Variable(
            kinds.choice("layer", "row", "none"),
            "layer",
            "Several devices: whole layers on each, rows of each matrix (CUDA), or all on the one that MAIN_GPU names.",
        ),
    ]
    model_step_ms: Annotated[
        int,
        Variable(
            kinds.integer(0, 60000, note=_CHOSEN),
            "0",
            "Milliseconds an engine step should take, 0 for 300; bounds prefill chunks.",
        ),
    ]
    model_tensor_split: Annotated[
        tuple[float, ...] | None,
        Variable(
            kinds.SHARES,
            "",
            "Each device's share of the layers: RPC servers as in MODEL_RPC, then GPUs; unset: by free memory.",
        ),
    ]
    model_threads: Annotated[
        int,
        Variable(
            kinds.integer(0, 512, note="0 = measured, or all cores"),
            "0",
            "CPU threads that compute. All cores: of the process, or its quota (cgroups).",
        ),
    ]
    otel_exporter_otlp_endpoint: Annotated[
        str | None,
        Variable(
            kinds.URL,
            "",
            "Where to send traces, over OTLP/HTTP; unset: none are made. Needs the extra otel. "
            "The SDK's other OTEL_ variables count too.",
        ),
    ]
    otel_instrumentation_genai_capture_message_content: Annotated[
        bool, Variable(kinds.SWITCH, "off", "Whether traces carry the text of prompts and answers.")
    ]
    otel_service_name: Annotated[str, Variable(kinds.LABEL, "lucid-llm", "The service's name in traces.")]
    prometheus_http_address: Annotated[
        Address, Variable(kinds.ADDRESS, "127.0.0.1:8081", "Where GET /metrics listens, in a thread of its own.")
    ]
    queue_limit: Annotated[
        int | None,
        Variable(
            kinds.integer(0),
            "",
            "Requests that may wait for a free sequence; one more is answered 503 with Retry-After. Unset: three for "
            "each sequence.",
        ),
    ]
    queue_timeout: Annotated[
        float, Variable(kinds.seconds(least=0.1), "60", "Longest time a request waits for a free sequence; then 503.")
    ]
    request_timeout: Annotated[
        float,
        Variable(
            kinds.seconds(note="0 = no limit"), "0", "Longest time one answer may take, waiting included; then 504."
        ),
    ]
    sse_ping_seconds: Annotated[
        float,
        Variable(kinds.seconds(note="0 = never"), "10", "A stream that is silent for this long gets a comment line."),
    ]


@functools.cache
def variables() -> dict[str, Variable]:
    """Return every declaration by the variable's name, in alphabetical order."""
    hints = get_type_hints(Config, include_extras=True)
    return {name.upper(): hint.__metadata__[0] for name, hint in sorted(hints.items())}


def read(environ: Mapping[str, str]) -> Config:
    """Read the configuration from `environ`. A variable that is set but empty counts as unset.

    Raises `ConfigError` for a value that is not allowed and for a name that looks like ours and is not.
    """
    for name, value in environ.items():
        _refuse_unknown(name, value)
    values: dict[str, Any] = {}
    for name, variable in variables().items():
        text = environ.get(name) or variable.default
        try:
            values[name.lower()] = variable.kind.parse(text) if text else None
        except ValueError:
            shown = "..." if variable.secret else repr(text)
            raise ConfigError(f"{name}={shown} is not valid; allowed: {variable.kind.allowed}") from None
    config = Config(**values)
    _check_together(config)
    return config


def _check_together(config: Config) -> None:
    """Raise `ConfigError` for values that are fine alone but not together."""
    if config.http_address == config.prometheus_http_address:
        raise ConfigError(
            f"PROMETHEUS_HTTP_ADDRESS={str(config.prometheus_http_address)!r} is not valid; "
            "allowed: an address other than HTTP_ADDRESS"
        )
    if config.model_rpc and not config.model_gpu_layers:
        raise ConfigError(
            "MODEL_GPU_LAYERS=0 keeps every layer on this machine, so that MODEL_RPC has no use; allowed with it: "
            "1 or more, 999 for all"
        )
    if config.model_kv_cells and config.model_kv_layout != "unified":
        raise ConfigError(
            f"MODEL_KV_CELLS={config.model_kv_cells} needs MODEL_KV_LAYOUT=unified, not "
            f"{config.model_kv_layout}: other layouts have no cells in common"
        )
    if config.model_kv_type in _QUANTIZED and config.model_flash_attention == "off":
        raise ConfigError(
            f"MODEL_KV_TYPE={config.model_kv_type} needs flash attention, and MODEL_FLASH_ATTENTION=off forbids it: "
            "llama.cpp reads quantized values in no other way"
        )


@functools.cache
def current() -> Config:
    """Return the configuration of this process, read from `os.environ` on the first call and never again."""
    return read(os.environ)


#: What Kubernetes sets in every container for a service that happens to be called, say, "model".
_SERVICE_LINK = re.compile(r"_SERVICE_HOST$|_SERVICE_PORT(_\w+)?$|_PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?$")


def _refuse_unknown(name: str, value: str) -> None:
    """Raise `ConfigError` if `name` is not a variable of ours but was surely meant to be one.

    MODEL_ is the product's own prefix. Other first words (HTTP_PROXY, QUEUE_NAME) belong to everybody, so there only
    a slip of a letter or two counts.
    """
    known = list(variables())
    if name in known or _SERVICE_LINK.search(name) or name.startswith("OTEL_"):  # the SDK reads many more
        return
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.9)
    if nearest and name.split("_")[0] == nearest[0].split("_")[0]:
        shown = "..." if variables()[nearest[0]].secret else repr(value)
        raise ConfigError(f"{name}={shown} is not a known variable; did you mean {nearest[0]}?")
    if name.startswith("MODEL_"):
        allowed = ", ".join(candidate for candidate in known if candidate.startswith("MODEL_"))
        raise ConfigError(f"{name}={value!r} is not a known variable; allowed: {allowed}")


def help_lines() -> Iterator[str]:
    """Yield the table of variables as text for the terminal."""
    for name, variable in variables().items():
        yield f"  {name} ({variable.kind.name}; default {variable.default or 'unset'})"
        yield f"      {variable.meaning}"
        yield f"      allowed: {variable.kind.allowed}"
