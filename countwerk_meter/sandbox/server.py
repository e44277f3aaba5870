"""
Running the sandbox: in a thread for tests, in the foreground for the command line.

The rule: the socket is bound before anything starts, so a port in use is an `OSError` to the caller and the port of
an ephemeral server is known at once; and the control API is switched on only where the server is bound to loopback.
"""

import socket
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from countwerk_meter.sandbox.app import DEFAULT_API_KEY, SandboxApp, create_app
from countwerk_meter.sandbox.guard import is_loopback
from countwerk_meter.sandbox.protocol import SandboxProtocol
from countwerk_meter.sandbox.remote import SandboxControl

_STARTS_WITHIN = 10.0
_STOPS_WITHIN = 10.0


class SandboxServer:
    """
    A sandbox in a daemon thread: `with SandboxServer() as sandbox: sandbox.url, sandbox.api_key, sandbox.control`.

    `port` 0 takes any free one. `db` None keeps the books in memory.
    """

    def __init__(
        self,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        db: str | Path | None = None,
        api_key: str = DEFAULT_API_KEY,
        now: Callable[[], float] | None = None,
    ) -> None:
        self.api_key = api_key
        self._socket = bind(host, port)
        try:
            self._app = create_app(db=db, api_key=api_key, control=is_loopback(host), now=now)
        except BaseException:
            self._socket.close()
            raise
        self.url = url_of(self._socket)
        self.control = SandboxControl(self.url)
        self._server = _Server(self._app)
        self._thread = threading.Thread(target=self._run, name="countwerk-sandbox", daemon=True)

    def start(self) -> Self:
        """Start serving. Returns once requests are answered."""
        self._thread.start()
        if not self._server.ready.wait(_STARTS_WITHIN):
            raise RuntimeError("the sandbox did not start")
        return self

    def stop(self) -> None:
        """Stop serving, cut what is in progress, close the books."""
        self.control.close()
        self._server.should_exit = True
        self._app.pauses.end_all()
        if self._thread.ident is not None:
            self._thread.join(_STOPS_WITHIN)
        self._socket.close()
        self._app.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _run(self) -> None:
        self._server.run(sockets=[self._socket])


def run(
    *,
    host: str,
    port: int,
    db: str | Path | None,
    api_key: str,
    started: Callable[[str, bool], None] = lambda _url, _control: None,
) -> None:
    """
    Serve in the foreground until interrupted. `started` is told the URL and whether the control API answers.

    Raises `OSError` if the address cannot be bound, `NotABooksFileError` if `db` is not the sandbox's.
    """
    with bind(host, port) as sock:
        control = is_loopback(host)
        app = create_app(db=db, api_key=api_key, control=control)
        try:
            server = _Server(app, on_ready=lambda: started(url_of(sock), control))
            server.run(sockets=[sock])
        except KeyboardInterrupt:
            # uvicorn has shut down in good order and passes the signal on.
            pass
        finally:
            app.close()


def bind(host: str, port: int) -> socket.socket:
    """Bind a listening socket. Raises `OSError`: the port is in use, the host is not ours."""
    family, kind, protocol, _, address = socket.getaddrinfo(
        host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE
    )[0]
    # The protocol is named, unlike in socket.create_server: asyncio sends without delay only where it is.
    sock = socket.socket(family, kind, protocol)
    try:
        if sys.platform != "win32":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        sock.listen(2048)
    except BaseException:
        sock.close()
        raise
    return sock


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


class _Server(uvicorn.Server):
    """uvicorn, quiet, on the protocol that can cut a connection; says when it is ready."""

    def __init__(self, app: SandboxApp, on_ready: Callable[[], None] = lambda: None) -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=SandboxProtocol,
                ws="none",
                loop="asyncio",
                lifespan="off",
                log_config=None,
                proxy_headers=False,
                access_log=False,
                # The sandbox writes its own Date: it has its own clock.
                date_header=False,
                server_header=False,
                # Longer than any client keeps an idle connection: the sandbox resets one only when told to.
                timeout_keep_alive=300,
                timeout_graceful_shutdown=1,
            )
        )
        self._on_ready = on_ready
        self.ready = threading.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.ready.set()
        self._on_ready()
