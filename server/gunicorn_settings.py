"""Settings of gunicorn for this server, made from our configuration.

Use them as

    gunicorn -c server/gunicorn_settings.py
    gunicorn -c python:server.gunicorn_settings

from the repository or wherever the package is installed; `python -m server` does the latter. A configuration error
ends the start with one line and exit code 2; a missing model file or an occupied port with one line and exit code 1.

Read by gunicorn before it forks. The names without underscore below are gunicorn's.
"""

from __future__ import annotations

import math as _math
import sys as _sys

from server import boot as _boot
from server import config as _config
from server import logs as _logs

try:
    _settings = _config.current()
except _config.ConfigError as _error:
    print(f"error: {_error}", file=_sys.stderr)
    raise SystemExit(2) from None
_logs.set_up(_settings.log_level, _settings.log_format)

wsgi_app = "server.app:application"
bind = str(_settings.http_address)
proc_name = "lucid-llm"

workers = 1
worker_class = "server.worker.Worker"
#: Beside one thread for each generation, some that keep answering health checks and refusals when all of those stream.
threads = _settings.http_workers + 16
worker_connections = threads + 1024
#: Watches the worker's main loop, not its requests, which may take as long as they like.
timeout = 120
graceful_timeout = _math.ceil(_settings.graceful_timeout) + 5
keepalive = 75
limit_request_line = 8190
limit_request_fields = 100
limit_request_field_size = 16380
control_socket_disable = True
logger_class = "server.logs.GunicornLogger"
loglevel = _settings.log_level

on_starting = _boot.before_start
child_exit = _boot.after_worker
on_exit = _boot.after_all
