"""The environment of processes that work on what strangers wrote: documents and templates get no secrets to see.

Ours holds API_KEYS and the password in KNOWLEDGE_URL. Knows names of variables, nothing of the processes.
"""

from __future__ import annotations

import os
from typing import Final

#: What Python and its libraries need to run as they do here: where things are, and the words for times and texts.
_PASSED: Final = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH", "LANG", "LC_ALL", "LC_CTYPE", "LC_TIME", "TZ")


def bare_environment(**variables: str) -> dict[str, str]:
    """Returns the harmless part of this process's environment, and `variables`."""
    return {name: os.environ[name] for name in _PASSED if name in os.environ} | variables
