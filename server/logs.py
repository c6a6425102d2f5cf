"""Where log lines go: all, ours, the engine's, libllama's and gunicorn's, to stderr, in the format of LOG_FORMAT.

Knows Python's logging and gunicorn's logger class; knows nothing of what is logged.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from typing import Final

import msgspec
from gunicorn.config import Config
from gunicorn.glogging import Logger


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields of `facts` where a record has them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(fields | getattr(record, "facts", {})).decode()


_FORMATTERS: Final = {
    "human": logging.Formatter("%(asctime)s %(levelname)-7s %(name)s: %(message)s"),
    "json": JsonFormatter(),
}


def set_up(level: str, style: str) -> None:
    """Send records of at least `level` (debug, info, warning, error) to stderr, in `style` human or json."""
    logging.basicConfig(stream=sys.stderr, level=level.upper(), force=True)
    logging.getLogger().handlers[0].setFormatter(_FORMATTERS[style])
    # What libllama calls information is two screens per start.
    logging.getLogger("llama_native").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


class GunicornLogger(Logger):
    """Gunicorn's own messages through the root logger. Its routine ones only at debug: ours say the same better."""

    def setup(self, cfg: Config) -> None:
        """Replace gunicorn's handlers."""
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
        self.error_log.setLevel(logging.DEBUG if cfg.loglevel == "debug" else logging.WARNING)
