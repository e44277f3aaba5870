"""A proxy in front of the ledger, on real loopback sockets, that behaves as networks do."""

import contextlib
import socket
import socketserver
import struct
import threading
import time
from urllib.parse import urlsplit

_RST = struct.pack("ii", 1, 0)


class RudeProxy:
    """Passes requests on, but for those of an endpoint that it is told to be rude to, so many times."""

    def __init__(self, url):
        self.ledger = urlsplit(url)
        self.rudeness = []
        self.arrived = []
        self._lock = threading.Lock()
        self._over = threading.Event()
        proxy = self

        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                with contextlib.suppress(OSError):
                    proxy.serve(self.request)

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            request_queue_size = 64

        self._server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self):
        self._over.set()
        self._server.shutdown()
        self._thread.join(10)
        self._server.server_close()

    def be(self, how, endpoint, times=1):
        self.rudeness.append([getattr(self, f"_{how}"), endpoint, times])

    def _rude_to(self, endpoint):
        with self._lock:
            for entry in self.rudeness:
                if entry[1] == endpoint and entry[2] > 0:
                    entry[2] -= 1
                    return entry[0]
        return None

    def serve(self, client):
        """Every request of one connection."""
        while (request := self._read(client)) is not None:
            endpoint = request.split(b" ", 2)[1].decode().rsplit("/", 1)[-1]
            rude = self._rude_to(endpoint)
            if rude is None:
                client.sendall(self._pass_on(endpoint, request))
            elif rude(client, endpoint, request) is not False:
                return

    @staticmethod
    def _read(client):
        data = b""
        while b"\r\n\r\n" not in data:
            piece = client.recv(65536)
            if not piece:
                return None
            data += piece
        head, _, body = data.partition(b"\r\n\r\n")
        length = next(
            (int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")), 0
        )
        while len(body) < length:
            body += client.recv(65536)
        return head + b"\r\n\r\n" + body

    def _pass_on(self, endpoint, request):
        """Let the ledger carry it out; return its whole answer, as one that keeps the connection."""
        self.arrived.append(endpoint)
        with socket.create_connection((self.ledger.hostname, self.ledger.port), 10) as ledger:
            ledger.sendall(request.replace(b"\r\n", b"\r\nConnection: close\r\n", 1))
            answer = b""
            while piece := ledger.recv(65536):
                answer += piece
        return answer.replace(b"connection: close\r\n", b"", 1)

    def _slowly(self, client, data, seconds=0.05):
        for at in range(len(data)):
            client.sendall(data[at : at + 1])
            if self._over.wait(seconds):
                return

    @staticmethod
    def _reset(client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RST)
        client.close()

    # Kinds of rudeness.

    def _reset_before(self, client, endpoint, request):
        self._reset(client)

    def _reset_after(self, client, endpoint, request):
        self._pass_on(endpoint, request)
        self._reset(client)

    def _reset_in_mid_body(self, client, endpoint, request):
        answer = self._pass_on(endpoint, request)
        client.sendall(answer[:-10])
        time.sleep(0.05)
        self._reset(client)

    def _half_closed(self, client, endpoint, request):
        answer = self._pass_on(endpoint, request)
        client.sendall(answer[: answer.index(b"\r\n\r\n") + 8])
        client.shutdown(socket.SHUT_WR)
        client.recv(1)

    def _dripping_headers(self, client, endpoint, request):
        self._slowly(client, self._pass_on(endpoint, request))

    def _dripping_body(self, client, endpoint, request):
        head, _, body = self._pass_on(endpoint, request).partition(b"\r\n\r\n")
        client.sendall(head + b"\r\n\r\n")
        self._slowly(client, body)

    def _garbage(self, client, endpoint, request):
        self._pass_on(endpoint, request)
        client.sendall(b"\x16\x03\x01 no HTTP at all\r\n\r\n\0\xff")

    def _huge(self, client, endpoint, request):
        self._pass_on(endpoint, request)
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 10485760\r\n\r\n")
        for _ in range(160):
            client.sendall(b'{"success": true' + b" " * 65520)

    def _truncated(self, client, endpoint, request):
        answer = self._pass_on(endpoint, request)
        client.sendall(answer[:-5])

    def _redirect(self, client, endpoint, request):
        client.sendall(f"HTTP/1.1 307 Moved\r\nLocation: {self.url}/elsewhere\r\nContent-Length: 0\r\n\r\n".encode())
        return False

    def _without_length(self, client, endpoint, request):
        _, _, body = self._pass_on(endpoint, request).partition(b"\r\n\r\n")
        client.sendall(b"HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n" + body)

    def _hanging_up_afterwards(self, client, endpoint, request):
        """It answers well, and closes the connection that it promised to keep."""
        client.sendall(self._pass_on(endpoint, request))

    def _silent(self, client, endpoint, request):
        self._over.wait(60)
