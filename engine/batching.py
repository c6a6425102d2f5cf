"""Writes a planned step into a llama batch.

Knows sequences, rows and tokens; decides nothing and computes nothing.
"""

from __future__ import annotations

from engine.scheduler import Run, Step
from llama_native import Batch


def fill(batch: Batch, step: Step) -> tuple[list[Run], list[int], list[tuple[Run, int, int]]]:
    """Write `step` into `batch`, in order of sequence.

    Returns who gets a token, and from which row; and whose prompt is scored, from which row on, how many rows.

    llama.cpp computes neighbouring sequences together only if they follow each other in the batch.
    """
    batch.clear()
    runs: list[Run] = []
    rows: list[int] = []
    scored: list[tuple[Run, int, int]] = []
    parts = [(run, 0) for run in step.decode]
    if step.prefill:  # else they are in order
        parts += step.prefill
        parts.sort(key=lambda part: part[0].sequence.id)
    for run, count in parts:
        start = run.sequence.length
        if count:
            last = count == run.remaining
            tokens = run.generation.request.prompt[start : start + count]
            if run.scores:
                scored.append((run, batch.n_tokens, count))
            batch.extend(tokens, start, run.sequence.id, output_last=last, output_all=run.scores)
        else:
            last = True
            batch.add(run.token, start, run.sequence.id, output=True)
        if last:
            runs.append(run)
            rows.append(batch.n_tokens - 1)
    return runs, rows, scored
