"""Devices of other machines, lent over TCP by llama.cpp's `ggml-rpc-server`.

llama.cpp ends the process when it cannot reach such a server, so a server is tried here first, with the handshake of
its protocol (`HELLO` in ggml-rpc.cpp). What happens later is llama.cpp's: a connection that breaks while a model is in
use ends the process. The backend is a plug-in beside libggml (`build_llama.sh --rpc`) and loaded on first use. Knows
addresses and devices; it does not know which layers go where.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Final

from llama_native import log
from llama_native.errors import RpcError, log_reason
from llama_native.ffi import C, ffi, text

#: Found through the run path of libggml, which asks the loader for it.
_PLUGIN: Final = b"libggml-rpc.so"

#: The first message to a server: the command, the length of what follows, and no capabilities beyond plain TCP.
_HELLO: Final = struct.pack("<BQ24x", 14, 24)

#: The answer: its length, version of the protocol (major, minor, patch), padding, capabilities.
_ANSWER: Final = struct.Struct("<Q3B25x")

#: Pause between attempts to connect, in seconds.
_PAUSE: Final = 0.2

_names: dict[str, tuple[str, ...]] = {}


def add_rpc_server(address: str, connect_timeout: float = 5.0, answer_timeout: float = 5.0) -> tuple[str, ...]:
    """Make the devices of the RPC server at `address` known to this process for good; return their names ("RPC0").

    Models loaded afterwards spread their offloaded layers over them too, unless `ModelParams.devices` says otherwise.
    A server serves one client at a time: it is busy from here on, until this process's models that use it are closed.

    :param address: "host:port"; llama.cpp speaks IPv4 only.
    :param connect_timeout: how long to try to connect, in seconds; the server may be starting.
    :param answer_timeout: how long to wait for its answer, in seconds; it may be busy with another client.
    :raises RpcError: this build has no RPC backend, or no server of its protocol version answers.
    """
    if address not in _names:
        backend = _backend()
        _greet(_connect(address, connect_timeout), address, answer_timeout)
        add = ffi.cast("ggml_backend_reg_t (*)(const char *)", _function(backend, b"ggml_backend_rpc_add_server"))
        server = add(address.encode())
        if server == ffi.NULL:
            raise RpcError(f"the RPC server at {address} has no devices")
        C.ggml_backend_register(server)
        devices = [C.ggml_backend_reg_dev_get(server, i) for i in range(C.ggml_backend_reg_dev_count(server))]
        _names[address] = tuple(text(C.ggml_backend_dev_name(device)) for device in devices)
    return _names[address]


def _backend() -> object:
    """Load the plug-in, once."""
    backend = C.ggml_backend_reg_by_name(b"RPC")
    if backend == ffi.NULL:
        C.lucid_log_forget()
        with log.silence():  # the reason becomes the exception's
            backend = C.ggml_backend_load(_PLUGIN)
    if backend == ffi.NULL:
        raise RpcError(f"this build of llama.cpp has no RPC backend; run build_llama.sh --rpc ({log_reason()})")
    return backend


def _function(backend: object, name: bytes) -> object:
    function = C.ggml_backend_reg_get_proc_address(backend, name)
    if function == ffi.NULL:
        raise RpcError(f"the RPC backend has no function {name.decode()}")
    return function


def _connect(address: str, timeout: float) -> socket.socket:
    """Connect to the server at `address`; try for `timeout` seconds."""
    host, _, port = address.rpartition(":")
    deadline = time.monotonic() + timeout
    while True:
        try:
            # The first IPv4 address of a name, as llama.cpp takes it.
            left = max(_PAUSE, deadline - time.monotonic())
            return socket.create_connection((socket.gethostbyname(host), int(port)), left)
        except (OSError, UnicodeError) as error:  # UnicodeError: no name can be like this
            if time.monotonic() + _PAUSE > deadline or isinstance(error, UnicodeError):
                reason = getattr(error, "strerror", None) or error
                raise RpcError(f"no RPC server can be reached at {address}: {reason}") from None
        time.sleep(_PAUSE)


def _greet(connection: socket.socket, address: str, timeout: float) -> None:
    """Say hello and check the answer; closes the connection."""
    connection.settimeout(timeout)
    answer = b""
    try:
        with connection:
            connection.sendall(_HELLO)
            while len(answer) < _ANSWER.size and (data := connection.recv(_ANSWER.size - len(answer))):
                answer += data
    except TimeoutError:
        raise RpcError(
            f"the RPC server at {address} did not answer within {timeout:g} s; it serves one client at a time"
        ) from None
    except OSError as error:
        raise RpcError(f"the RPC server at {address} broke off: {error.strerror or error}") from None
    if len(answer) < _ANSWER.size or _ANSWER.unpack(answer)[0] != _ANSWER.size - 8:
        raise RpcError(f"{address} is not an RPC server of llama.cpp")
    _, major, minor, patch = _ANSWER.unpack(answer)
    ours = (C.RPC_PROTO_MAJOR_VERSION, C.RPC_PROTO_MINOR_VERSION)
    if major != ours[0] or minor > ours[1]:
        raise RpcError(
            f"the RPC server at {address} speaks version {major}.{minor}.{patch} of the protocol, and this build "
            f"{ours[0]}.{ours[1]}: build both from the same llama.cpp"
        )
