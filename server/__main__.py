"""`python -m server`: run the server under gunicorn, configured by environment variables.

Knows the command line, which has only --help; everything else is in `server.config` and `server.gunicorn_settings`.
"""

from __future__ import annotations

import argparse
import sys

from gunicorn.app.wsgiapp import WSGIApplication

from server import config


def main() -> None:
    """Parse the command line and serve until stopped. Exit codes: 0 stopped, 1 cannot start, 2 bad configuration."""
    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serve one GGUF model over an OpenAI-compatible HTTP API. Ctrl-C or SIGTERM stops it.",
        epilog="environment variables:\n" + "\n".join(config.help_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.parse_args()
    sys.argv[1:] = ["--config", "python:server.gunicorn_settings"]
    WSGIApplication("%(prog)s").run()


if __name__ == "__main__":
    main()
