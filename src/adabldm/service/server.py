"""`adabldm serve`: the application under uvicorn, which finishes what is in flight before it ends."""

from __future__ import annotations

import asyncio
import ctypes
import errno
import logging
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from types import FrameType

import uvicorn
from fastapi import FastAPI

from adabldm.core.errors import InputError
from adabldm.core.settings import ServeSettings
from adabldm.service.api import Service, create_app, create_service
from adabldm.service.security import is_loopback

BACKLOG = 2048
MEMORY = {"trim threshold": (-1, 2**30), "top pad": (-2, 2**26), "mmap threshold": (-3, 2**25)}
"""Options of glibc's `mallopt` by name, each with its number and bytes."""
LINGER = 2.0
"""Seconds after the last edit, after which connections that are still open are closed, such as those of pages."""


def serve(settings: ServeSettings) -> None:
    """Listen until SIGTERM or Ctrl-C; then finish the edits that were asked for, and interrupt the job at work.

    Raises:
        InputError: a port, run, folder or queue that cannot be used.
    """
    with ready(settings) as (service, listening):
        run_app(create_app(settings, service), service, listening)


@contextmanager
def ready(settings: ServeSettings) -> Iterator[tuple[Service, socket.socket]]:
    """A service that runs its jobs, and the socket that it is to listen on.

    Whether another service runs with the folder is asked before the port, because that one usually has both.

    Raises:
        InputError: as `serve`.
    """
    service = create_service(settings)
    try:
        service.jobs.claim()
        with closing(listen(settings)) as listening:
            service.jobs.claim(address(listening))
            service.start()
            yield service, listening
    finally:
        service.close()


def keep_memory() -> None:
    """Let the C library keep memory that was freed for the next edit: about a tenth of an edit's time without it."""
    with suppress(OSError, AttributeError, TypeError):  # another C library
        tune = ctypes.CDLL(None).mallopt
        for option, size in MEMORY.values():
            tune(option, size)


def run_app(app: FastAPI, service: Service, listening: socket.socket) -> None:
    """Serve an application, such as one with pages mounted below it, on a socket that listens already."""
    keep_memory()
    listening.listen(BACKLOG)  # who comes before all is ready waits a moment
    tell(service, address(listening))
    config = uvicorn.Config(
        app, log_level="warning", access_log=False, server_header=False, timeout_keep_alive=30, backlog=BACKLOG
    )
    if threading.current_thread() is threading.main_thread():  # uvicorn raises its signal again when all is over
        signal.signal(signal.SIGTERM, lambda number, frame: None)
    with suppress(KeyboardInterrupt):
        _Server(config, service).run(sockets=[listening])


def listen(settings: ServeSettings) -> socket.socket:
    """The socket of an address.

    Raises:
        InputError: it is taken, or no address of this machine.
    """
    try:
        family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
        listening = socket.socket(family, socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((settings.host, settings.port))
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise InputError(
                f"--port {settings.port}: another program listens there, perhaps a studio of another folder; choose "
                "another one, or --port 0 for any that is free."
            ) from error
        raise InputError(
            f"--host {settings.host} --port {settings.port}: cannot be listened on ({error.strerror or error}); choose "
            "another one."
        ) from error
    listening.set_inheritable(False)
    return listening


def address(listening: socket.socket) -> str:
    """The address for a browser or a client on this machine."""
    host, port = listening.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def tell(service: Service, place: str) -> None:
    """Say on standard error where the service is, and with which token."""
    settings = service.settings
    lines = [f"listening on {place}; Ctrl-C ends it"]
    if service.token is not None and settings.token is None:
        lines.append(f"token: {service.token}")
    if not is_loopback(settings.host):
        lines.append("the connection is not encrypted; put a proxy with TLS before it where others can listen")
    lines.append(f"folders: {', '.join(map(str, service.roots.folders))}")
    print("\n".join(lines), file=sys.stderr, flush=True)


class _Server(uvicorn.Server):
    """Ends streams when it is told to end, and closes other connections once all edits are done."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal to end; a second Ctrl-C does not wait."""
        self._service.stopping.set()
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End in order."""
        closing = asyncio.create_task(self._close_idle())
        try:
            await super().shutdown(sockets)
        finally:
            closing.cancel()

    async def _close_idle(self) -> None:
        quiet = 0.0
        while quiet < LINGER:
            await asyncio.sleep(0.1)
            load = self._service.engine.load
            quiet = 0.0 if load.waiting or load.running else quiet + 0.1
        for connection in list(self.server_state.connections):
            transport = getattr(connection, "transport", None)
            if transport is not None:
                transport.close()


logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
