"""What we promise of a long run, and whether it was kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bench.report import cell
from bench.soak import mixed, overload
from bench.soak.samples import Windows, windows

#: 95 of 100 refusals may take so many seconds, and TTFT under overload so many times that of a few clients.
REFUSAL = 0.1
TTFT_RATIO = 3.0

#: 99 of 100 scrapes under overload may take so many seconds.
SCRAPE = 0.1

#: Resident memory may change by this share from one window to the next, descriptors and threads by so many.
MEMORY_CHANGE = 0.02
COUNT_CHANGE = 1


@dataclass(frozen=True, slots=True)
class Verdict:
    """A figure, its bar in words, and whether it was met; None where it is only reported."""

    figure: str
    value: object
    bar: str = ""
    met: bool | None = None

    def row(self) -> list[object]:
        """A row of the table."""
        verdict = "-" if self.met is None else "pass" if self.met else "FAIL"
        return [self.figure, cell(self.value), self.bar or "-", verdict]


def missed(verdicts: Sequence[Verdict]) -> bool:
    """Whether any bar was missed."""
    return any(it.met is False for it in verdicts)


def quantile(values: Sequence[float], share: float) -> float:
    """A quantile, NaN of nothing."""
    return float(np.quantile(values, share)) if values else float("nan")


def _at_most(figure: str, value: float, most: float) -> Verdict:
    return Verdict(figure, value, f"<= {most:g}", value <= most)


def _none(figure: str, found: Sequence[str]) -> Verdict:
    return Verdict(figure, len(found), "0", not found)


def of_overload(
    few: overload.Tally, many: overload.Tally, logged: Sequence[float], disagreements: Sequence[str]
) -> Iterator[Verdict]:
    """The figures of an overload, judged against those of a few clients of the same run.

    `logged`: how long the server had each request that it refused, in seconds, by its own log.
    """
    yield Verdict("requests answered", len(many.ids))
    yield _none("wrong answers", [*few.wrong, *many.wrong])
    yield _none("hangs", [*few.hung, *many.hung])
    yield Verdict("free answers the same as alone", f"{few.same + many.same} of {few.known + many.known}")
    yield Verdict("requests refused", len(many.refusals), ">= 1", bool(many.refusals))
    yield Verdict("accepted, then refused after QUEUE_TIMEOUT", many.late, "0", not many.late)
    for share in (0.5, 0.95, 0.99):
        figure, value = f"refused after ms, p{100 * share:g}", 1e3 * quantile(many.refusals, share)
        yield _at_most(figure, value, 1e3 * REFUSAL) if share == 0.95 else Verdict(figure, value)
    yield Verdict("refused after ms, longest", 1e3 * max(many.refusals, default=float("nan")))
    within = [seconds for seconds in many.refusals if seconds <= REFUSAL]
    yield Verdict(f"refused within {1e3 * REFUSAL:g} ms", f"{len(within)} of {len(many.refusals)}")
    for what, times in (
        ("the server's own part", logged),
        ("the client's, to connect and send", many.connects),
        ("the client's, to notice", many.lateness),
    ):
        shown = " / ".join(f"{1e3 * quantile(times, share):.1f}" for share in (0.5, 0.95, 0.99))
        yield Verdict(f"  {what}, ms, p50 / p95 / p99", shown)
    yield Verdict("Retry-After s, p50", quantile(many.retry_after, 0.5))
    base, loaded = quantile(few.ttft, 0.95), quantile(many.ttft, 0.95)
    yield Verdict(f"p95 TTFT s, {few.clients} clients", base)
    yield Verdict(f"p95 TTFT s, {many.clients} clients", loaded)
    yield _at_most("p95 TTFT, ratio", loaded / base if base else float("nan"), TTFT_RATIO)
    yield _none("counters that disagree", disagreements)


def of_scrapes(seconds: Sequence[float]) -> Iterator[Verdict]:
    """The figures of the scrapes of an overload."""
    yield Verdict("scrapes", len(seconds))
    yield Verdict("scrape ms, p50", 1e3 * quantile(seconds, 0.5))
    yield _at_most("scrape ms, p99", 1e3 * quantile(seconds, 0.99), 1e3 * SCRAPE)
    yield Verdict("scrape ms, longest", 1e3 * max(seconds, default=float("nan")))


def of_soak(tally: mixed.Tally, disagreements: Sequence[str]) -> Iterator[Verdict]:
    """The figures of a soak."""
    yield Verdict("requests", sum(tally.outcomes.values()))
    for kind in ("answered", "refused", "late", "left"):
        yield Verdict(f"of them {kind}", tally.outcomes[kind])
    yield _none("wrong answers", tally.wrong)
    yield _none("hangs", tally.hung)
    if memory := windows(tally.samples, "rss", tally.duration):
        yield Verdict("resident MB, last third of the time", memory.last / 1e6)
        change, within = f"+-{100 * MEMORY_CHANGE:g}%", abs(memory.growth) <= MEMORY_CHANGE
        yield Verdict("  against the third before", f"{100 * memory.growth:+.2f}%", change, within)
    if anonymous := windows(tally.samples, "anonymous", tally.duration):
        yield Verdict("  without mapped files", f"{100 * anonymous.growth:+.2f}%")
    for figure in ("descriptors", "threads"):
        if found := windows(tally.samples, figure, tally.duration):
            yield _flat(figure, found)
    yield _none("counters that disagree", disagreements)


def _flat(figure: str, found: Windows) -> Verdict:
    value = f"{found.before:g} then {found.last:g}"
    return Verdict(f"{figure}, medians", value, f"+-{COUNT_CHANGE}", abs(found.last - found.before) <= COUNT_CHANGE)
