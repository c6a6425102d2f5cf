"""Benchmarks of the native loop, of the HTTP service and of its peers, run from a shell.

Each command prints a table, shows its progress and can write JSON. The commands know how to start servers, load them
and compare what came out; they hold no code that the service itself needs.
"""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import Final

ENVIRONMENT: Final = MappingProxyType(dict(os.environ))
"""The environment before `llama_native` sets variables for its own process: what the servers we compare start with."""
