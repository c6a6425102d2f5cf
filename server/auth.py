"""API keys: who may use the API.

Keys come from API_KEYS and API_KEYS_FILE; without either everybody may. Only SHA-256 digests of them are kept here and
in the configuration (the environment that API_KEYS came in stays what it was), and a key that is presented is compared
with all of them in constant time, so that no stopwatch gives one away.
Knows the Authorization header (RFC 6750) and the key file; knows nothing of routes.
"""

from __future__ import annotations

import hmac
import logging
import re
from pathlib import Path

from server.config import ConfigError
from server.errors import ApiError
from server.kinds import KEY, key_digest

log = logging.getLogger("server.auth")

_BEARER = re.compile(r"bearer +([!-~]+) *", re.IGNORECASE)


class Keys:
    """The keys that are accepted now. Safe to use from any thread."""

    def __init__(self, keys: tuple[bytes, ...], file: Path | None) -> None:
        """Keys with the digests `keys` and those in `file`, one a line, are accepted; neither switches the check off.

        Raises `ConfigError` if the file cannot be used.
        """
        self._fixed = keys
        self._file = file
        self._stamp: tuple[int, int, int] | None = None
        self._from_file: tuple[bytes, ...] = ()
        if file is not None:
            try:
                self._stamp = _stamp(file)
                self._from_file = _read(file)
            except OSError as error:
                raise ConfigError(f"API_KEYS_FILE={str(file)!r} cannot be read: {error.strerror}") from error
            except ValueError as error:
                raise ConfigError(f"API_KEYS_FILE={str(file)!r} is not valid; {error}") from error
            if not self._from_file:
                raise ConfigError(f"API_KEYS_FILE={str(file)!r} is not valid; it holds no key")

    @property
    def required(self) -> bool:
        """Whether requests need a key."""
        return bool(self._fixed) or self._file is not None

    def check(self, authorization: str) -> None:
        """Raise a 401 unless `authorization`, the header's value, presents one of the keys."""
        if not self.required:
            return
        self._reload()
        match = _BEARER.fullmatch(authorization)
        if match is None:
            raise _unauthorized("No API key was sent. Send one as Authorization: Bearer KEY.", "")
        presented = key_digest(match[1])
        found = False
        for known in self._fixed + self._from_file:
            found |= hmac.compare_digest(presented, known)
        if not found:
            raise _unauthorized("The API key is not one of this server's.", ', error="invalid_token"')

    def _reload(self) -> None:
        """Read the file again if it was changed. While it cannot be used, the keys stay as they were."""
        if self._file is None:
            return
        try:
            stamp = _stamp(self._file)
            if stamp == self._stamp:
                return
            self._from_file, self._stamp = _read(self._file), stamp
            log.info("API_KEYS_FILE changed: %d keys", len(self._from_file))
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.warning("API_KEYS_FILE cannot be read again (%s); its keys stay as they were", reason)


def _stamp(file: Path) -> tuple[int, int, int]:
    """Return what changes when the file is written or replaced."""
    status = file.stat()
    return status.st_mtime_ns, status.st_ino, status.st_size


def _read(file: Path) -> tuple[bytes, ...]:
    """Return the digests of the keys in `file`: one a line; empty lines and lines that begin with # are skipped.

    Raises OSError, and ValueError for a line that cannot be a key, without saying what it holds.
    """
    digests = []
    for number, line in enumerate(file.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
        key = line.strip()
        if not key or key.startswith("#"):
            continue
        if not KEY.fullmatch(key):
            raise ValueError(f"line {number} is not a key: up to 512 printable ASCII characters without spaces")
        digests.append(key_digest(key))
    return tuple(digests)


def _unauthorized(message: str, attributes: str) -> ApiError:
    challenge = f'Bearer realm="lucid-llm"{attributes}'
    return ApiError(401, message, code="invalid_api_key", headers=(("WWW-Authenticate", challenge),))
