"""
Several requests on one connection: nothing of one may surround the next.

uvicorn starts a pipelined request from inside the `send` that ends the one before, and goes on reading from inside an
app's `receive`; whatever is set in the context then is what the next request begins with.
"""

import asyncio
import socket

from fastapi import BackgroundTasks, FastAPI, Request

from countwerk_meter import current_reservation
from countwerk_meter.asgi import Route


def asked(method, path, account, body=b""):
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nx-account: {account}\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def answers(connection, count):
    """Read until so many answers are complete; each ends with a JSON object."""
    connection.settimeout(20)
    read = b""
    while read.count(b"HTTP/1.1 ") < count or not read.endswith(b"}"):
        piece = connection.recv(65536)
        assert piece, read
        read += piece
    return read


def app_of(meter):
    app = FastAPI()

    @app.post("/background")
    async def background(tasks: BackgroundTasks):
        tasks.add_task(asyncio.sleep, 0.3)
        return {}

    @app.post("/upload")
    async def upload(request: Request):
        return {"bytes": len(await request.body())}

    @meter.metered("app.helper", price=7)
    async def helper():
        return 1

    @app.get("/unlisted")
    async def unlisted():
        surrounded = current_reservation() is not None
        try:
            await helper()
        except RuntimeError:
            return {"refused": True, "surrounded": surrounded}
        return {"refused": False, "surrounded": surrounded}

    return app


def connect(client):
    url = client.base_url
    return socket.create_connection((url.host, url.port))


def test_pipelined_requests_are_charged_each(meter, wrap, serve, spent):
    """Ten requests sent at once on one connection are ten charges, though each still runs when the next begins."""
    routes = [Route("POST", "/background", "app.chat", price=5)]
    client = serve(wrap(app_of(meter), *routes))
    with connect(client) as connection:
        connection.sendall(asked("POST", "/background", "acct_1") * 10)
        assert answers(connection, 10).count(b"HTTP/1.1 200") == 10
    serve.stop()
    assert spent() == 50


def test_the_next_request_on_a_connection_is_nobodys(meter, wrap, serve, spent):
    """Behind a proxy it is another user's: what an upload left behind must not pay for it."""
    routes = [Route("POST", "/upload", "app.upload", price=1)]
    client = serve(wrap(app_of(meter), *routes))
    with connect(client) as connection:
        connection.sendall(asked("POST", "/upload", "acct_1", b"z" * 300_000))
        answers(connection, 1)
        connection.sendall(asked("GET", "/unlisted", ""))
        assert answers(connection, 1).endswith(b'{"refused":true,"surrounded":false}')
    serve.stop()
    assert spent() == 1
