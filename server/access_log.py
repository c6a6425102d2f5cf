"""The one log line of each request.

People read `METHOD path status key=value ...`; LOG_FORMAT=json writes the same facts as fields of an object. Knows
finished exchanges; knows nothing of where log lines go.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from server.exchange import Exchange

log = logging.getLogger("server.access")

#: What is asked for every few seconds and would fill the log.
_QUIET = frozenset({"/health", "/ready", "/v1/engine"})


def write(exchange: Exchange) -> None:
    """Log `exchange`, which is finished."""
    level = logging.DEBUG if exchange.route in _QUIET else logging.INFO
    if log.isEnabledFor(level):
        facts = _facts(exchange)
        log.log(level, _line(facts), extra={"facts": facts})


def _facts(exchange: Exchange) -> dict[str, Any]:
    """What is known of an exchange; what does not apply to it is absent."""
    request, timings = exchange.request, exchange.timings
    facts: dict[str, Any] = {
        "method": request.method,
        "path": request.path.encode("unicode_escape").decode(),
        "route": exchange.route,
        "status": exchange.status,
    }
    if exchange.prompt_tokens:
        facts["prompt_tokens"] = exchange.prompt_tokens
    if exchange.requests:
        facts["cached_tokens"] = exchange.cached_tokens
        facts["generated_tokens"] = exchange.completion_tokens
    facts["phases"] = {phase: round(seconds, 6) for phase, seconds in timings.phases.items()}
    if exchange.first_token_seconds is not None:
        facts["ttft_seconds"] = round(exchange.first_token_seconds, 6)
    facts["total_seconds"] = round(timings.total_seconds, 6)
    if exchange.finish_reason:
        facts["finish_reason"] = exchange.finish_reason
    if exchange.trace_id:
        facts["trace_id"] = exchange.trace_id
    facts["request_id"] = exchange.request_id
    return facts


def _line(facts: dict[str, Any]) -> str:
    parts = [facts["method"], facts["path"], str(facts["status"])]
    if "prompt_tokens" in facts:
        parts.append(f"prompt={facts['prompt_tokens']}")
    if "generated_tokens" in facts:
        parts.append("cached={cached_tokens} tokens={generated_tokens}".format(**facts))
    if "ttft_seconds" in facts:
        parts.append(f"ttft={facts['ttft_seconds']:.3f}s")
    parts.append(f"total={facts['total_seconds']:.3f}s")
    parts.append("phases=" + ",".join(f"{phase}:{seconds:.3f}" for phase, seconds in facts["phases"].items()))
    if "finish_reason" in facts:
        parts.append(f"finish={facts['finish_reason']}")
    if "trace_id" in facts:
        parts.append(f"trace={facts['trace_id']}")
    parts.append(f"id={facts['request_id']}")
    return " ".join(parts)
