"""Where log lines go: all of them, ours, the engine's, libllama's and gunicorn's, to stderr in one format.

Knows Python's logging and gunicorn's logger class; knows nothing of what is logged.
"""

from __future__ import annotations

import logging
import sys

from gunicorn.config import Config
from gunicorn.glogging import Logger


def set_up(level: str) -> None:
    """Send records of at least `level` (debug, info, warning, error) to stderr."""
    logging.basicConfig(
        stream=sys.stderr,
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s: %(message)s",
        force=True,
    )
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
