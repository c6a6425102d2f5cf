"""The teams of compute threads that OpenMP keeps.

libgomp keeps a team for every thread that has ever computed, until that thread ends. As soon as all teams together have
more threads than there are processors, it lets them spin at barriers a hundred times at most, whatever GOMP_SPINCOUNT
says (`gomp_throttled_spin_count_var`), and a decode step waits for a wake-up by the kernel at each. So whoever has done
computing for now gives its team back.
"""

from __future__ import annotations

from llama_native.ffi import C


def release_compute_threads() -> None:
    """Ends the compute threads of the calling thread; its next computation starts new ones, which takes some 0.2 ms.

    Without OpenMP there is nothing to end.
    """
    C.lucid_release_compute_threads()
