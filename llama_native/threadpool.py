"""A pool of CPU threads that one or several contexts compute with, one after the other."""

from __future__ import annotations

from collections.abc import Sequence

from llama_native.enums import ThreadPriority
from llama_native.ffi import C, ffi
from llama_native.handle import Handle, Resource


class ThreadPool(Resource):
    """CPU threads for `Context.attach_threadpool`. Contexts keep an attached pool alive after `close()`.

    Where ggml was built with OpenMP, the threads are OpenMP's and only `n_threads`, `priority` and `cpus` count.

    :param n_threads: how many threads, the calling one included.
    :param priority: their scheduling priority; above NORMAL may need privileges.
    :param poll: 0 to 100, how eagerly idle threads wait for work instead of sleeping. 0 saves power, 100 time.
    :param strict_cpu: pin each thread to one CPU of `cpus`.
    :param cpus: the CPUs to run on; empty means all.
    :param paused: start paused; call `resume()` before computing with it saves the first wake-up.
    :raises ValueError: a parameter is out of range.
    """

    def __init__(
        self,
        n_threads: int,
        priority: ThreadPriority = ThreadPriority.NORMAL,
        poll: int = 50,
        strict_cpu: bool = False,
        cpus: Sequence[int] = (),
        paused: bool = False,
    ) -> None:
        limit = int(C.GGML_MAX_N_THREADS)
        if not 1 <= n_threads <= limit:
            raise ValueError(f"{n_threads} threads are out of range, allowed are 1 to {limit}")
        if not 0 <= poll <= 100:
            raise ValueError(f"poll is {poll}, allowed are 0 to 100")
        if any(not 0 <= cpu < limit for cpu in cpus):
            raise ValueError(f"a CPU of {list(cpus)} is out of range")
        params = ffi.new("struct ggml_threadpool_params *", C.ggml_threadpool_params_default(n_threads))
        params.prio = priority
        params.poll = poll
        params.strict_cpu = strict_cpu
        params.paused = paused
        for cpu in cpus:
            params.cpumask[cpu] = True
        pointer = C.ggml_threadpool_new(params)
        if pointer == ffi.NULL:
            raise ValueError(f"a pool of {n_threads} threads could not be created")
        self.n_threads = n_threads
        self._handle = Handle(pointer, C.ggml_threadpool_free)

    def pause(self) -> None:
        """Lets the threads sleep until `resume()` or the next computation."""
        C.ggml_threadpool_pause(self._live().pointer)

    def resume(self) -> None:
        """Wakes the threads up, so that the next computation need not."""
        C.ggml_threadpool_resume(self._live().pointer)
