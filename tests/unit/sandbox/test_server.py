"""Running the sandbox: in a thread, in the foreground, from the command line."""

import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading

import httpx
import pytest
import typer
from typer.testing import CliRunner

from countwerk_meter.cli.sandbox import sandbox
from countwerk_meter.sandbox import NotABooksFileError, SandboxControl, SandboxServer, create_app, run
from countwerk_meter.sandbox.server import bind

cli = typer.Typer()
cli.command()(sandbox)


def test_a_server_keeps_its_books_in_a_file(tmp_path):
    """Stopped and started again on the same file, it goes on where it was, clock included."""
    with SandboxServer(db=tmp_path / "ledger.db", api_key="cs_mine") as server:
        server.control.account("acct", balance=7)
        moved = server.control.advance(10**7)
    with SandboxServer(db=tmp_path / "ledger.db") as server:
        books = server.control.books("acct")

    assert books["available"] == 7
    assert books["now"] >= moved


def test_a_server_has_a_clock_of_its_own():
    """Real time may be replaced."""
    with SandboxServer(now=lambda: 1_700_000_000.25) as server:
        assert server.control.now() == "2023-11-14T22:13:20.250Z"


def test_a_server_asks_for_the_key_it_was_given():
    """The key is the one of the server, not the default."""
    with SandboxServer(api_key="cs_mine") as server:
        body, headers = {"account_id": "acct"}, {"X-API-Key": "cs_sandbox"}
        answers = [
            httpx.post(f"{server.url}/api/credits/balance", json=body, headers=h, trust_env=False).status_code
            for h in (headers, {"X-API-Key": server.api_key})
        ]

    assert answers == [401, 200]


def test_stopping_ends_what_is_waiting():
    """A request that is being delayed is cut, and is not carried out."""
    errors = []
    server = SandboxServer().start()
    server.control.faults([{"kind": "delay", "seconds": 60}])

    def send() -> None:
        try:
            httpx.post(f"{server.url}/api/credits/balance", json={}, trust_env=False, timeout=30)
        except httpx.TransportError as error:
            errors.append(error)

    thread = threading.Thread(target=send)
    thread.start()
    while not server.control.requests()["counts"]:
        pass
    server.stop()
    thread.join(10)

    assert len(errors) == 1


def test_a_server_that_was_never_started_can_be_stopped():
    """Nothing is left open."""
    server = SandboxServer()
    server.stop()

    with pytest.raises(httpx.ConnectError):
        httpx.get(server.url, trust_env=False)


def test_a_port_in_use_is_an_os_error(countwerk_sandbox):
    """The caller hears of it at once."""
    with pytest.raises(OSError, match="in use"):
        SandboxServer(port=int(countwerk_sandbox.url.rpartition(":")[2]))


def test_a_foreign_database_stops_the_start(tmp_path):
    """Neither the file nor the port is kept."""
    path = tmp_path / "other.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE precious (x)")
    connection.close()

    with pytest.raises(NotABooksFileError):
        SandboxServer(db=path)


@pytest.mark.parametrize("key", ["", "cs_é", "a\nb"])
def test_a_key_must_fit_a_header(key):
    """What a client could not send is no key."""
    with pytest.raises(ValueError, match="printable ASCII"):
        create_app(api_key=key)


def test_beyond_loopback_the_control_api_is_off():
    """Bound to every address, the ledger answers and the control API and page do not."""
    with SandboxServer(host="0.0.0.0") as server:
        url = server.url.replace("0.0.0.0", "127.0.0.1")
        headers = {"X-API-Key": server.api_key}
        statuses = [
            httpx.get(f"{url}/", trust_env=False).status_code,
            httpx.get(f"{url}/_sandbox/health", trust_env=False).status_code,
            httpx.post(
                f"{url}/api/credits/balance", json={"account_id": "a"}, headers=headers, trust_env=False
            ).status_code,
        ]

    assert statuses == [403, 403, 200]


def test_ipv6_has_brackets_in_its_url():
    """An IPv6 address can be pasted into a client."""
    try:
        server = SandboxServer(host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    with server:
        assert server.url.startswith("http://[::1]:")
        assert server.control.now()


def test_a_socket_that_cannot_be_bound_is_closed():
    """An address that is not ours is an OSError, and leaks nothing."""
    with pytest.raises(OSError):
        bind("192.0.2.7", 0)


async def test_the_lifespan_closes_the_books():
    """Under another server, the end of the lifespan closes the database."""
    app = create_app()
    async with app.router.lifespan_context(app):
        assert app.ledger.books.account("acct").available == 0

    with pytest.raises(sqlite3.ProgrammingError):
        app.ledger.books.account("acct")


def test_run_serves_until_interrupted():
    """In the foreground: it says where it is, serves, and ends in good order on an interrupt."""
    said, seen = [], []

    def use(url: str) -> None:
        with SandboxControl(url) as control:
            seen.append(control.account("acct", balance=3)["available"])
        signal.raise_signal(signal.SIGINT)

    def started(url: str, control: bool) -> None:
        said.append(control)
        threading.Thread(target=use, args=(url,)).start()

    run(host="127.0.0.1", port=0, db=None, api_key="cs_sandbox", started=started)

    assert (said, seen) == ([True], [3])


def interrupted(arguments: list[str]):
    """Run the command and interrupt it as soon as it listens."""
    code = (
        "import signal, typer, countwerk_meter.sandbox.server as server\n"
        "from countwerk_meter.cli.sandbox import sandbox\n"
        "ready = server._Server.startup\n"
        "async def startup(self, sockets=None):\n"
        "    await ready(self, sockets)\n"
        "    signal.raise_signal(signal.SIGINT)\n"
        "server._Server.startup = startup\n"
        "typer.run(sandbox)\n"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, timeout=60, check=False
    )


def test_the_command_says_where_it_is():
    """One line: the URL, the default key, that the books are in memory, and the page."""
    done = interrupted(["--port", "0"])

    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    assert done.stdout.startswith("Sandbox ledger at http://127.0.0.1:")
    assert "cs_sandbox" in done.stdout
    assert "in memory" in done.stdout
    assert "/_sandbox" not in done.stdout
    assert "| page http://127.0.0.1:" in done.stdout


def test_the_command_keeps_a_chosen_key_to_itself(tmp_path):
    """As JSON, with a file; a key that the user chose is not printed."""
    path = tmp_path / "ledger.db"
    done = interrupted(["--port", "0", "--json", "--db", str(path), "--api-key", "cs_secret", "--host", "0.0.0.0"])
    said = json.loads(done.stdout)

    assert done.returncode == 0
    assert "cs_secret" not in done.stdout + done.stderr
    assert {"api_key": None, "db": str(path), "page": None, "control": False} == {
        name: value for name, value in said.items() if name != "url"
    }
    assert path.exists()


def test_the_command_says_when_the_control_api_is_off():
    """Beyond loopback the line says so."""
    done = interrupted(["--port", "0", "--host", "0.0.0.0", "--api-key", "cs_secret"])

    assert "control API and page off" in done.stdout
    assert "API key: the one you gave" in done.stdout


def test_the_command_ends_with_2_when_the_port_is_taken(countwerk_sandbox):
    """A clear line and exit code 2."""
    port = countwerk_sandbox.url.rpartition(":")[2]
    done = CliRunner().invoke(cli, ["--port", port])

    assert done.exit_code == 2
    assert f"cannot listen on 127.0.0.1 port {port}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_command_ends_with_2_when_it_cannot_start(tmp_path):
    """A file of something else, or a key that is none, is said in one line."""
    text = tmp_path / "text.db"
    text.write_text("precious " * 200)
    for arguments, why in ((["--db", str(text)], "not a SQLite database"), (["--api-key", "é"], "printable ASCII")):
        done = CliRunner().invoke(cli, ["--port", "0", *arguments])

        assert done.exit_code == 2
        assert why in done.stderr


def test_the_command_names_its_extra(monkeypatch):
    """Without starlette and uvicorn it says what to install."""
    monkeypatch.setitem(sys.modules, "countwerk_meter.sandbox", None)
    done = CliRunner().invoke(cli, ["--port", "0"])

    assert done.exit_code == 2
    assert "countwerk-meter[sandbox]" in done.stderr


def test_the_server_sends_without_delay():
    """Sockets are named TCP, or every second request would wait for a delayed acknowledgement."""
    with bind("127.0.0.1", 0) as sock:
        assert sock.proto == socket.IPPROTO_TCP
