"""`python -m server`: run the server under gunicorn, configured by environment variables.

`python -m server plan` says how much memory that configuration takes. Knows the command line; everything else is in
`server.config`, `server.gunicorn_settings` and `server.sizing`.
"""

from __future__ import annotations

import argparse
import signal
import sys


def main() -> None:
    """Parse the command line and serve until stopped, or plan.

    Exit codes: 0 stopped, or the plan fits; 1 cannot start, or the plan does not fit; 2 bad configuration. A signal
    that comes before anything has started ends the process as signals do.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # else Ctrl-C during these imports prints a traceback
    try:
        from gunicorn.app.wsgiapp import WSGIApplication
    except ModuleNotFoundError as error:
        sys.exit(f"error: {error.name} is not installed here; run `make build`, then .venv/bin/python -m server")

    from server import config

    parser = argparse.ArgumentParser(
        prog="python -m server",
        description="Serve one GGUF model over an OpenAI-compatible HTTP API. Ctrl-C or SIGTERM stops it.",
        epilog="environment variables:\n" + "\n".join(config.help_lines()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "command", nargs="?", choices=("plan",), help="plan: say how much memory this takes, and serve nothing"
    )
    parser.add_argument("--json", action="store_true", help="print the plan as JSON")
    options = parser.parse_args()
    if options.command == "plan":
        from server import sizing  # not above: gunicorn's master process must not load llama.cpp before it forks

        sys.exit(sizing.main(as_json=options.json))
    if options.json:
        parser.error("--json goes with plan")
    sys.argv[1:] = ["--config", "python:server.gunicorn_settings"]
    WSGIApplication("%(prog)s").run()


if __name__ == "__main__":
    main()
