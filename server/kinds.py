"""How the text of an environment variable becomes a value, and what is allowed for it.

Knows kinds of values (numbers, switches, addresses, lists); knows no variable (`server.config` declares those).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple
from urllib.parse import urlsplit

from knowledge.settings import STORE_URLS, prefix, store_url

#: What can be an API key.
KEY: Final = re.compile(r"[!-~]{1,512}")


class Address(NamedTuple):
    """Where to listen: a host name or IP address, and a TCP port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Kind:
    """How the text of a variable becomes a value: `parse` raises ValueError for text that is not `allowed`."""

    name: str
    allowed: str
    parse: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Variable:
    """The declaration of one environment variable. `default` is text, as one would set it; empty means unset."""

    kind: Kind
    default: str
    meaning: str
    secret: bool = False
    """Its value is never shown."""


def integer(low: int, high: int | None = None, note: str = "") -> Kind:
    """Returns the kind of whole numbers from `low` to `high`; `note` says more about what is allowed."""

    def parse(text: str) -> int:
        value = int(text) if re.fullmatch(r"-?[0-9]{1,18}", text) else None
        if value is None or value < low or (high is not None and value > high):
            raise ValueError
        return value

    bounds = f"a whole number, at least {low}" if high is None else f"a whole number from {low} to {high}"
    return Kind("integer", bounds + (f" ({note})" if note else ""), parse)


def zero_or(low: int, meaning_of_zero: str) -> Kind:
    """Returns the kind of whole numbers from `low`, and 0, which means something else."""

    def parse(text: str) -> int:
        value: int = whole(text)
        if 0 < value < low:
            raise ValueError
        return value

    whole = integer(0).parse
    return Kind("integer", f"a whole number, at least {low}, or 0 ({meaning_of_zero})", parse)


def seconds(least: float = 0, note: str = "") -> Kind:
    """Returns the kind of times in seconds, fractions allowed, from `least`."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", text) or float(text) < least:
            raise ValueError
        return float(text)

    return Kind("seconds", f"a number, at least {least:g}" + (f" ({note})" if note else ""), parse)


def number(low: float, high: float) -> Kind:
    """Returns the kind of numbers from `low` to `high`, fractions allowed."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"-?[0-9]{1,9}(\.[0-9]{1,9})?", text) or not low <= float(text) <= high:
            raise ValueError
        return float(text)

    return Kind("number", f"a number from {low:g} to {high:g}", parse)


def choice(*values: str) -> Kind:
    """Returns the kind of texts that are one of `values`, in either case."""

    def parse(text: str) -> str:
        if text.lower() not in values:
            raise ValueError
        return text.lower()

    return Kind("choice", ", ".join(values), parse)


def _parse_switch(text: str) -> bool:
    if text.lower() not in ("on", "off"):
        raise ValueError
    return text.lower() == "on"


def _parse_address(text: str) -> Address:
    match = re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:\[\]/]+):([0-9]{1,5})", text)
    if match is None or not 1 <= int(match[2]) <= 65535:
        raise ValueError
    return Address(match[1].strip("[]"), int(match[2]))


def _parse_servers(text: str) -> tuple[Address, ...]:
    servers = tuple(_parse_address(server.strip()) for server in text.split(","))
    if len(servers) > 16 or len(set(servers)) < len(servers) or any(":" in server.host for server in servers):
        raise ValueError
    return servers


def _parse_shares(text: str) -> tuple[float, ...]:
    shares = tuple(_share(share.strip()) for share in text.split(","))
    if len(shares) > 16 or not any(shares):
        raise ValueError
    return shares


def _parse_template(text: str) -> str:
    if "{context}" not in text or "{query}" not in text:
        raise ValueError
    return text


def _parse_url(text: str) -> str:
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ValueError
    return text


def _parse_label(text: str) -> str:
    if not text.isprintable() or len(text) > 128:
        raise ValueError
    return text


def key_digest(key: str) -> bytes:
    """Returns the SHA-256 digest of an API key: all that is kept of it."""
    return hashlib.sha256(key.encode("ascii")).digest()


def _parse_keys(text: str) -> tuple[bytes, ...]:
    keys = [key.strip() for key in text.split(",")]
    if not all(map(KEY.fullmatch, keys)):
        raise ValueError
    return tuple(map(key_digest, keys))


def _parse_origins(text: str) -> tuple[str, ...]:
    origins = tuple(origin.strip() for origin in text.split(","))
    if origins != ("*",) and not all(re.fullmatch(r"[a-z][a-z0-9+.-]*://[a-z0-9.\-\[\]:]+|null", o) for o in origins):
        raise ValueError
    return origins


_share = number(0, 999_999).parse

SWITCH = Kind("switch", "on, off", _parse_switch)
ADDRESS = Kind("address", "host:port, an IPv6 host in brackets, port 1 to 65535", _parse_address)
SERVERS = Kind("list", "up to 16 different host:port separated by commas, no IPv6", _parse_servers)
SHARES = Kind("list", "up to 16 numbers from 0 to 999999 separated by commas, not all 0", _parse_shares)
FOLDER = Kind("path", "the path of a folder", Path)
PATH = Kind("path", "the path of a file", Path)
URL = Kind("url", "an http:// or https:// address", _parse_url)
LABEL = Kind("text", "up to 128 printable characters", _parse_label)
KEYS = Kind("list", "printable ASCII without spaces, up to 512 characters each, separated by commas", _parse_keys)
ORIGINS = Kind(
    "list", "* alone, or origins in lower case such as https://app.example:8443, separated by commas", _parse_origins
)
TEXT = Kind("text", "any text", str)
PREFIX = Kind("text", "any text; none means no prefix", prefix)
STORE = Kind("text", STORE_URLS, store_url)
TEMPLATE_LINES = Kind(
    "text", "text that contains {context} and {query}", lambda text: _parse_template(text).replace(r"\n", "\n")
)
TEMPLATE = Kind("text", "text that contains {context} and {query}", _parse_template)
