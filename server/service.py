"""The model, the engine and the prompt builder of this process, and the time before and after they exist.

Loading takes seconds to minutes, so it happens in a thread of its own while HTTP already answers (with 503). Knows
the configuration and how the parts fit together; knows nothing of routes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from engine import Engine, EngineError, EngineSettings, EngineStuck
from engine.memory import free_memory
from knowledge.embedder import Embedder, EmbeddingModelError
from knowledge.knowledge import Knowledge
from llama_native import LlamaError, Model, RpcError, TokenTexts, UnsupportedModel, Vocab
from server.allowance import Allowance
from server.body import BODIES
from server.config import Config
from server.devices import model_params
from server.disconnect import DisconnectWatcher
from server.documents import open_knowledge
from server.energy import EnergyMeter, nvidia_gpus, rapl_domains
from server.engine_metrics import EngineCollector
from server.errors import ApiError, engine_failed, shutting_down, unavailable
from server.host_metrics import Facts, ProcessMetrics
from server.knowledge_metrics import KnowledgeMetrics
from server.metrics import Metrics
from server.prompt import PromptBuilder
from server.reasoning import tag_tokens
from server.relay import json_texts
from server.sizing import TooLittleMemoryError, check_memory, engine_settings, fits_elsewhere
from server.succession import Succession
from server.template import CHATML, ChatTemplate, TemplateError
from server.turns import Turns
from server.vitals import Ending, Vitals
from server.watchdog import Watchdog, patience

if TYPE_CHECKING:
    from server.tracing import Tracer

log = logging.getLogger("server")

#: Seconds that a worker which is replaced takes at most after GRACEFUL_TIMEOUT.
LINGERING: Final = 5.0


@dataclass(frozen=True, slots=True)
class Loaded:
    """What exists once the model is loaded."""

    model: Model
    engine: Engine
    prompts: PromptBuilder
    embedder: Embedder | None
    """The embedding model; None if EMBEDDING_MODEL does not exist."""
    turns: Turns
    """Who may prepare a prompt or vectors now."""
    created: int
    """When the model was loaded, in seconds since the epoch."""
    tag_tokens: frozenset[int]
    """Control tokens that are shown in answers, because they have a meaning there."""
    texts: TokenTexts
    """What the others are in a JSON string."""

    @property
    def vocab(self) -> Vocab:
        """The model's vocabulary."""
        return self.model.vocab


class Service:
    """Everything that routes share. Loads in the background, serves, closes."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.metrics = Metrics(config.instance_label, counting=config.metrics)
        self.metrics.watch(ProcessMetrics(config.instance_label))
        self.tracer = _tracer(config)
        self.watcher = DisconnectWatcher()
        #: One for each generation, or batch of embeddings, that may be in flight.
        self.slots = Allowance(config.http_workers)
        #: Bytes that the bodies of all requests may take; enough for one of any size that is allowed.
        self.bodies = Allowance(max(BODIES, config.max_body_bytes))
        #: Share of the model that is loaded, 0 to 1.
        self.progress = 0.0
        #: True once loading failed; the process is about to end.
        self.failed = False
        #: True if that is because it got no further, so that nobody can wait for the thread that loads.
        self.loading_stuck = False
        #: True from the signal to stop on, while answers under way finish. A signal handler sets it.
        self.draining = False
        #: What the master process gets to know of this one.
        self.vitals = Vitals()
        #: The documents, once the model is loaded; None if there are none.
        self.knowledge: Knowledge | None = None
        self._loaded: Loaded | None = None
        #: Watches loading at first, then what was loaded.
        self._watchdog = Watchdog({"loading": (lambda: self._loading_step, config.loading_stall_seconds)})
        #: Changes while loading gets on.
        self._loading_step = 0
        self._closing = threading.Event()
        self._closed = threading.Lock()
        self._loader: threading.Thread | None = None

    @property
    def model_names(self) -> tuple[str, ...]:
        """The names under which the model may be asked for; the first is the one it answers with."""
        path = self.config.model_path
        return (self.config.model_alias, path.name, path.stem)

    @property
    def embedding_names(self) -> tuple[str, ...]:
        """The same of the embedding model."""
        path = self.config.embedding_model
        return (path.stem, path.name)

    @property
    def status(self) -> str:
        """The word "ok" when requests can be answered, else why they cannot."""
        if self._closing.is_set():
            return "shutting down"
        if self.failed:
            return "loading failed"
        if self._loaded is None:
            return "loading model"
        return "ok" if self._loaded.engine.alive else "engine failed"

    @property
    def alive(self) -> bool:
        """Whether this process gets anywhere: it loads, serves or stops. False when it has failed and ends."""
        return self.status not in ("loading failed", "engine failed")

    @property
    def readiness(self) -> str:
        """The word "ok" when a new request would be taken, else why not: `status`, "draining" or "full"."""
        if self.status != "ok":
            return self.status
        if self.draining:
            return "draining"
        return "full" if self._full() else "ok"

    def _full(self) -> bool:
        """Whether a generation that is asked for now would be refused."""
        return not self.slots.left or not self.loaded().engine.has_room(1)

    @property
    def engine_failed(self) -> bool:
        """The engine has ended although nobody asked for it."""
        return self.status == "engine failed"

    def look_after(self) -> None:
        """Give the engine up if it is stuck: requests that run or wait then end. To be called about once a second.

        Before there is one, give loading up if that is stuck: in a driver, or by an RPC server that does not answer.
        """
        watchdog, loaded = self._watchdog, self._loaded
        if self.failed or (loaded is not None and not loaded.engine.alive):
            return
        wrong = watchdog.look()
        if wrong is None:
            return
        if loaded is not None:
            loaded.engine.give_up(EngineStuck(wrong))
        elif self._loaded is None:  # else it got there just now
            log.error("cannot load MODEL_PATH=%s: %s", self.config.model_path, wrong)
            self.failed = self.loading_stuck = True

    @property
    def ending(self) -> Ending:
        """How this process ends, if it does so now."""
        if self._loaded is None or not self.engine_failed:
            return Ending.STOPPED
        stuck = isinstance(self._loaded.engine.failure, EngineStuck)
        return Ending.ENGINE_STUCK if stuck else Ending.ENGINE_FAILED

    def take_slot(self) -> None:
        """Take one of `slots`, which must be given back; raises `ApiError` (503) if none is free."""
        if not self.slots.take():
            limit = self.config.http_workers
            raise unavailable(f"The server is at its limit: {limit} answers are under way.", "too_many_requests", 1)

    def loaded(self) -> Loaded:
        """Return the loaded parts; raises `ApiError` (503) while there are none."""
        loaded = self._loaded
        if self._closing.is_set():
            raise shutting_down()
        if loaded is None:
            raise unavailable("The server cannot answer yet: loading model.", "model_loading", 2)
        if not loaded.engine.alive:
            raise self.stopped()
        return loaded

    def stopped(self) -> ApiError:
        """Return what to tell a client about an engine that has stopped: whether that was asked for."""
        return shutting_down() if self._closing.is_set() else engine_failed()

    def start(self, succession: Succession, on_failure: Callable[[], None]) -> None:
        """Begin to load the model in the background. `on_failure` is called, from that thread, if that fails."""
        arguments = (succession, on_failure)
        self._loader = threading.Thread(target=self._run_loader, args=arguments, name="loader", daemon=True)
        self._loader.start()

    def close(self) -> None:
        """Stop loading or serving: generations under way end with `EngineStopped`.

        May be called twice, and from any thread.
        """
        self._closing.set()
        with self._closed:
            if self._loader is not None:
                self._loader.join()
            if self.knowledge is not None:
                self.knowledge.stop()
            if self._loaded is not None:
                self._loaded.engine.close()
                self._loaded.prompts.close()
            if self.knowledge is not None:  # after the engine: generations must not wait for the indexer
                self.knowledge.close()
            if self._loaded is not None:
                self._loaded.model.close()
                if self._loaded.embedder is not None:
                    self._loaded.embedder.close()
        if self.tracer is not None:
            self.tracer.close()

    def _run_loader(self, succession: Succession, on_failure: Callable[[], None]) -> None:
        try:
            loaded = self._load(succession)
            self.knowledge = open_knowledge(self.config, loaded.embedder)
        except Exception as error:
            if self._closing.is_set():
                return
            expected = isinstance(
                error, (LlamaError, EngineError, TemplateError, EmbeddingModelError, TooLittleMemoryError)
            )
            what = f"MODEL_PATH={self.config.model_path}"
            if isinstance(error, EmbeddingModelError):
                what = f"EMBEDDING_MODEL={self.config.embedding_model}"
            if isinstance(error, RpcError):
                what += " with MODEL_RPC"
            log.error("cannot load %s: %s", what, error, exc_info=not expected)
            self.failed = True
            on_failure()
            return
        self._watch(loaded)
        self._watchdog = _watchdog(self.config, loaded)
        self._loaded = loaded
        self.vitals.ready_at = time.monotonic()
        log.info(
            "ready: http://%s/v1, the page on http://%s/, metrics on http://%s/metrics",
            self.config.http_address,
            self.config.http_address,
            self.config.prometheus_http_address,
        )

    def _watch(self, loaded: Loaded) -> None:
        """Show the engine, the model, the energy and the documents in the metrics."""
        config, engine = self.config, loaded.engine
        counters = rapl_domains() + (nvidia_gpus() if config.model_gpu_layers else [])
        meter = EnergyMeter(counters, engine.stats, config.instance_label)
        meter.start()
        self.metrics.watch(EngineCollector(engine, loaded.turns, config.instance_label))
        self.metrics.watch(Facts(loaded.model, config.model_path, config.model_alias, config.instance_label))
        self.metrics.watch(meter)
        knowledge = self.knowledge
        if knowledge is not None:
            self.metrics.watch(KnowledgeMetrics(knowledge.store.stats, knowledge.age, config.instance_label))

    def _load(self, succession: Succession) -> Loaded:
        patience, offloaded = self.config.graceful_timeout + LINGERING, self.config.model_gpu_layers > 0
        if offloaded:  # two workers may not fit a device, which is found out by trying only
            succession.wait(patience, self._should_stop)
        embedder = load_embedder(self.config)
        try:
            log.info("loading %s", self.config.model_path)
            memory = free_memory() if offloaded else succession.memory(self._fits, patience, self._should_stop)
            return self._load_model(embedder, engine_settings(self.config, memory))
        except BaseException:
            if embedder is not None:
                embedder.close()
            raise

    def _fits(self, size: int, free: int) -> bool:
        """Whether what is chosen where `size` bytes are free can be had where `free` are."""
        self._loading_step += 1
        return fits_elsewhere(self.config, size, free)

    def _load_model(self, embedder: Embedder | None, settings: EngineSettings) -> Loaded:
        config = self.config
        begin = time.perf_counter()
        model = Model(config.model_path, model_params(config), progress=self._on_progress)
        try:
            if not model.can_generate:
                raise UnsupportedModel(f"{model.description} does not generate text; it is an embedding model")
            vocab = model.vocab
            source = model.chat_template()
            if source is None and config.model_prompt_template is None:
                log.warning("the model has no chat template; ChatML is used")
            template = ChatTemplate(source or CHATML, _token_text(vocab, vocab.bos), _token_text(vocab, vocab.eos))
            check_memory(model, settings)
            engine = Engine(model, settings, should_stop=self._should_stop)
        except BaseException:
            model.close()
            raise
        prompts = PromptBuilder(
            vocab, template, config.model_prompt_template, engine.context_size, config.knowledge_prompt
        )
        tags = tag_tokens(vocab)
        texts = json_texts(vocab, tags)
        engine.start()
        plan = engine.plan
        log.info(
            "loaded %s in %.1f s, %d of %d MiB of its weights for our own kernels",
            model.description,
            time.perf_counter() - begin,
            model.packed_size >> 20,
            model.size >> 20,
        )
        log.info(
            "%d requests at once of up to %d tokens; %d threads; KV cache of %s in %s; flash attention %s",
            plan.parallel,
            engine.context_size,
            plan.threads,
            plan.kv_type.name.lower(),
            "one pool" if plan.unified else "streams",
            "on" if plan.flash_attention else "off",
        )
        turns = Turns(min(engine.most_at_once, config.http_workers))
        return Loaded(model, engine, prompts, embedder, turns, int(time.time()), tags, texts)

    def _on_progress(self, share: float) -> bool:
        self.progress = share
        return not self._should_stop()

    def _should_stop(self) -> bool:
        """Whether loading is to stop; who asks is getting on with it."""
        self._loading_step += 1
        return self._closing.is_set()


def load_embedder(config: Config) -> Embedder | None:
    """Load EMBEDDING_MODEL if there is such a file. Raises `EmbeddingModelError` if it cannot be used."""
    path = config.embedding_model
    if not path.exists():
        log.info("no embeddings: EMBEDDING_MODEL=%s does not exist", path)
        return None
    try:
        embedder = Embedder(
            path,
            threads=config.model_threads,
            gpu_layers=config.model_gpu_layers,
            main_gpu=config.main_gpu,
            kernels=config.model_kernels,
            query_prefix=config.knowledge_query_prefix,
            document_prefix=config.knowledge_document_prefix,
        )
    except LlamaError as error:
        raise EmbeddingModelError(str(error)) from error
    log.info("embeddings by %s: %d dimensions, up to %d tokens", path, embedder.dimensions, embedder.max_tokens)
    return embedder


def _watchdog(config: Config, loaded: Loaded) -> Watchdog:
    configured, engine, embedder = config.engine_stall_seconds, loaded.engine, loaded.embedder
    slowness = engine.warm_up_seconds
    turns: dict[str, tuple[Callable[[], int | None], float]] = {
        "the engine": (lambda: engine.turn, patience(configured, slowness))
    }
    if embedder is not None:  # its decodes are up to four times as long, and it may be the larger model
        slowness *= 4 * max(1.0, embedder.model.n_params / loaded.model.n_params)
        turns["the embedding model"] = (lambda: embedder.turn, patience(configured, slowness))
    return Watchdog(turns)


def _tracer(config: Config) -> Tracer | None:
    """Return what traces requests, if that is wanted; the SDK is loaded only then."""
    if config.otel_exporter_otlp_endpoint is None:
        return None
    from server.tracing import Tracer

    return Tracer(config)


def _token_text(vocab: Vocab, token: int | None) -> str:
    return "" if token is None else vocab.token_bytes(token, special=True).decode("utf-8", "replace")
