"""
How an answer leaves, and how it fails to.

The rule: a fault decides only two things, how often the request is carried out and what becomes of the answer. What
the books say afterwards is always what really happened.
"""

import asyncio
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace

from starlette.types import Receive, Scope, Send

from countwerk_meter.sandbox.contract import RefusalError
from countwerk_meter.sandbox.faults import Fault, usual_code
from countwerk_meter.sandbox.ledger import Answer, refuse
from countwerk_meter.sandbox.pauses import Pauses
from countwerk_meter.sandbox.protocol import cut, transport_of

_JSON = b"application/json"
_CHUNK = 65_536
# HTTP allows these no body.
_BODILESS = frozenset({204, 205, 304})
_HTML = b"<!doctype html><title>502</title><h1>Bad gateway</h1><p>A proxy answered in the ledger's place.</p>"


async def deliver(send: Send, answer: Answer, date: bytes, *, media_type: bytes = _JSON) -> None:
    """Send an answer in one piece."""
    await send({"type": "http.response.start", "status": answer.status, "headers": _headers(answer, date, media_type)})
    await send({"type": "http.response.body", "body": answer.body})


class Mishap:
    """One request that a fault strikes. `carry_out` asks the ledger; `date` is its Date header."""

    def __init__(
        self,
        scope: Scope,
        receive: Receive,
        send: Send,
        *,
        fault: Fault,
        pauses: Pauses,
        carry_out: Callable[[], Answer],
        date: Callable[[], bytes],
    ) -> None:
        self._scope = scope
        self._receive = receive
        self._send = send
        self._fault = fault
        self._pauses = pauses
        self._carry_out = carry_out
        self._date = date
        # The sandbox was reset or stopped under this request.
        self._ended = False

    async def happen(self) -> Answer | None:
        """Let it happen. Return the answer that was sent, or None if none was sent whole."""
        fault = self._fault
        match fault.kind:
            case "status":
                return await self._send_whole(self._status())
            case "drop_before":
                return await self._drop()
            case "drop_after":
                self._carry_out()
                return await self._drop()
            case "delay":
                if not await self._pauses.wait(fault.seconds):
                    return await self._drop()
                return await self._send_whole(self._carry_out())
            case "delay_after":
                answer = self._carry_out()
                if not await self._pauses.wait(fault.seconds):
                    return await self._drop()
                return await self._send_whole(answer)
            case "duplicate":
                self._carry_out()
                return await self._send_whole(self._carry_out())
            case "garbage":
                self._carry_out()
                return await self._send_whole(Answer(fault.status, b'\x00\xff{"success": tru'))
            case "html":
                self._carry_out()
                return await self._send_whole(Answer(fault.status, _HTML), b"text/html; charset=utf-8")
            case "drip":
                return await self._drip(self._carry_out())
            case "oversize":
                return await self._oversize(self._carry_out())

    def _status(self) -> Answer:
        fault = self._fault
        if not fault.envelope or 300 <= fault.status < 400:
            return Answer(fault.status, b"", retry_after=fault.retry_after)
        code = fault.code or usual_code(self._scope["path"], fault.status)
        return refuse(RefusalError(fault.status, code, fault.message, retry_after=fault.retry_after))

    async def _send_whole(self, answer: Answer, media_type: bytes = _JSON) -> Answer:
        if answer.status in _BODILESS:
            answer = replace(answer, body=b"")
        headers = _headers(answer, self._date(), media_type)
        if self._fault.location is not None:
            headers.append((b"location", self._fault.location.encode("ascii")))
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": answer.body})
        return answer

    async def _drop(self) -> None:
        transport = transport_of(self._scope)
        if transport is None:
            # Without a socket (an in-process transport) this is what the caller would have seen.
            raise ConnectionResetError("the sandbox dropped the connection, as a fault told it to")
        cut(transport)
        await self._gone()

    async def _drip(self, answer: Answer) -> Answer | None:
        transport = transport_of(self._scope)
        headers = _headers(answer, self._date(), _JSON)
        if self._fault.headers and transport is not None:
            # Headers in pieces are below ASGI: they are written past the server, which then sees a closed connection.
            head = b"".join(b"%b: %b\r\n" % header for header in headers)
            whole = b"HTTP/1.1 %d Dripped\r\n%bconnection: close\r\n\r\n%b" % (answer.status, head, answer.body)
            async for byte in self._paced(whole, transport):
                transport.write(byte)
            if transport.is_closing() or self._ended:
                return await self._drop()
            transport.close()
            await self._gone()
            return answer
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        async for byte in self._paced(answer.body, transport):
            await self._send({"type": "http.response.body", "body": byte, "more_body": True})
        if self._ended:
            return await self._drop()
        await self._send({"type": "http.response.body", "body": b""})
        return answer

    async def _paced(self, data: bytes, transport: asyncio.Transport | None) -> AsyncGenerator[bytes]:
        """Yield each byte when it is due, so that the last one is when the seconds are over."""
        loop = asyncio.get_running_loop()
        begun = loop.time()
        for sent in range(len(data)):
            wait = begun + self._fault.seconds * (sent + 1) / len(data) - loop.time()
            if wait > 0 and not await self._pauses.wait(wait):
                self._ended = True
            if self._ended or (transport is not None and transport.is_closing()):
                return
            yield data[sent : sent + 1]

    async def _oversize(self, answer: Answer) -> Answer:
        padded = answer.body[:-1] + b',"padding":"' + b"x" * self._fault.size + b'"}'
        headers = _headers(Answer(answer.status, padded), self._date(), _JSON)
        await self._send({"type": "http.response.start", "status": answer.status, "headers": headers})
        for start in range(0, len(padded), _CHUNK):
            piece = padded[start : start + _CHUNK]
            await self._send({"type": "http.response.body", "body": piece, "more_body": True})
        await self._send({"type": "http.response.body", "body": b""})
        return answer

    async def _gone(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass


def _headers(answer: Answer, date: bytes, media_type: bytes) -> list[tuple[bytes, bytes]]:
    headers = [
        (b"content-type", media_type),
        (b"content-length", b"%d" % len(answer.body)),
        (b"date", date),
    ]
    if answer.retry_after is not None:
        headers.append((b"retry-after", answer.retry_after.encode("ascii")))
    return headers
