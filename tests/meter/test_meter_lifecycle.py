"""How a meter begins and ends: configuration, journals, closing, forks, dead processes."""

import asyncio
import os
import signal
import subprocess
import sys
import textwrap

import pytest

from countwerk_meter import (
    ChargeAlreadySettledError,
    ChargeInProgressError,
    ConfigurationError,
    CountwerkClient,
    CountwerkError,
    JournalError,
    Meter,
    PricingError,
)
from countwerk_meter.errors import InvalidRequestError


def charge(bench, meter, amount=5, **options):
    with meter.reserve(bench.account, "app.chat.reply", amount=amount, **options):
        pass


@pytest.mark.parametrize(
    "options",
    [
        {"rounding": "floor"},
        {"settlement": "never"},
        {"settle_with": "cash"},
        {"on_unavailable": "hope"},
        {"on_unavailable": "defer"},
        {"on_crash": "cry"},
        {"on_replay": "again"},
        {"debt_limit": -1},
        {"reserve_timeout": 0},
        {"settlement_concurrency": 0},
        {"journal": "mysql://x"},
        {"journal": "sqlite:///"},
    ],
    ids=str,
)
def test_settings_that_cannot_be_are_refused(bench, options):
    """A wrong setting fails at the start, in one sentence."""
    with pytest.raises(ConfigurationError):
        bench.meter(**options)


def test_a_meter_needs_a_product_and_a_key(bench):
    """Neither is guessed."""
    with pytest.raises(InvalidRequestError):
        Meter("", api_key="k")
    with pytest.raises(ConfigurationError, match="COUNTWERK_API_KEY"):
        Meter("product_1")
    with pytest.raises(ConfigurationError, match="COUNTWERK_AI_PRODUCT_ID"):
        Meter.from_env()
    with pytest.raises(ConfigurationError, match="client"), CountwerkClient("k", bench.sandbox.url) as client:
        Meter("product_1", client=client, api_key="k")


def test_a_meter_from_the_environment(bench, monkeypatch, tmp_path):
    """The five variables make a working meter; arguments win over them."""
    prices = tmp_path / "prices.json"
    prices.write_text(
        '{"profileVersionId": "v", "eurPerCredit": 1, "rateRules": '
        '[{"id": "r", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 1}]}'
    )
    for name, value in {
        "API_KEY": bench.sandbox.api_key,
        "BASE_URL": bench.sandbox.url,
        "AI_PRODUCT_ID": "product_1",
        "JOURNAL": f"sqlite:///{tmp_path}/other.db",
        "PRICES": str(prices),
    }.items():
        monkeypatch.setenv(f"COUNTWERK_{name}", value)
    with Meter.from_env() as meter:
        charge(bench, meter)
        assert ("product_1", "v") == (meter.ai_product_id, meter.prices.profile_version_id)
        assert (tmp_path / "other.db").exists()
        assert meter.journal.name.endswith("other.db")
    with Meter.from_env(journal="memory:") as meter:
        assert "memory:" == meter.journal.name
    assert 5 == bench.books()["spent"]


def test_the_default_journal_is_in_the_users_state_directory(bench, tmp_path, monkeypatch):
    """Without a journal named, charges survive in a file of this user's own."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    with Meter("product_1", api_key=bench.sandbox.api_key, base_url=bench.sandbox.url) as meter:
        charge(bench, meter)
    file = tmp_path / "state" / "countwerk-meter" / "journal.db"
    assert 0o600 == file.stat().st_mode & 0o777


def test_a_meter_on_a_clients_endpoint(bench):
    """A client lends its endpoint."""
    with CountwerkClient(bench.sandbox.api_key, bench.sandbox.url) as client:
        with Meter("product_1", client=client, journal="memory:") as meter:
            charge(bench, meter)
    assert 5 == bench.books()["spent"]


def test_a_price_profile_that_does_not_parse_is_refused(bench):
    """The text names what is wrong with it."""
    with pytest.raises(PricingError) as caught:
        bench.meter(prices={"profileVersionId": "v", "eurPerCredit": 1, "rateRules": [{"id": "r1"}]})
    assert "r1" in str(caught.value)


def test_a_corrupt_journal_is_refused_and_kept(bench):
    """The text names the file and what to do, and the file is never replaced."""
    bench.path.write_bytes(b"this is no database, but it may be all that is left of one" * 100)
    before = bench.path.read_bytes()
    with pytest.raises(JournalError) as caught:
        bench.meter()
    assert str(bench.path) in str(caught.value)
    assert before == bench.path.read_bytes()


def test_closing_settles_what_it_can(bench):
    """Leaving `with Meter(...)` drains; a closed meter lets nothing through."""
    with bench.meter() as meter:
        charge(bench, meter)
    assert {"spent": 5, "reserved": 0, "available": 95} == bench.books()
    with pytest.raises(CountwerkError, match="closed"):
        charge(bench, meter)
    with pytest.raises(CountwerkError, match="closed"):
        meter.deduct(bench.account, "app.export", 1)
    assert meter.close()


async def test_closing_in_async_code(bench):
    """`async with Meter(...)` does the same without blocking the loop."""
    async with bench.meter() as meter:
        async with meter.reserve(bench.account, "app.chat.reply", amount=5):
            pass
        assert await meter.aflush()
        await meter.arecover()
    assert 5 == (await asyncio.to_thread(bench.books))["spent"]


def test_closing_is_bounded_and_the_rest_stays(bench):
    """A ledger that is down does not keep a process from ending; the next meter settles what was left."""
    meter = bench.meter()
    bench.control.faults(
        [
            {"path": "/api/credits/confirm-reservation", "kind": "status", "status": 503, "times": None},
            {"path": "/api/credits/balance", "kind": "status", "status": 503, "times": None},
        ]
    )
    charge(bench, meter)
    assert not meter.close(0.5)
    bench.control.faults([])
    assert 5 == bench.settled(bench.meter())


def test_closing_does_not_lose_a_call_that_is_still_open(bench, meter):
    """`close` says that something is left, and what the call costs is committed all the same."""
    with meter.reserve(bench.account, "app.chat.reply", amount=5, usage_event_id="late") as reservation:
        assert not meter.close(0.2)
        reservation.settle(4)
    assert [] == bench.named("journal_failed")
    (charge,) = bench.meter().charges()
    assert ("committed", 4) == (charge.state, charge.amount)


def test_the_same_id_again_is_refused(bench, meter):
    """Open: in progress. Settled: charged already. With another account or operation: never."""
    with meter.reserve(bench.account, "app.chat.reply", amount=5, usage_event_id="turn-1"):
        with (
            pytest.raises(ChargeInProgressError) as progress,
            meter.reserve("acct_1", "app.chat.reply", amount=5, usage_event_id="turn-1"),
        ):
            pass
    assert ("turn-1", "open") == (progress.value.usage_event_id, progress.value.state)
    bench.settled(meter)
    with pytest.raises(ChargeAlreadySettledError):
        charge(bench, meter, usage_event_id="turn-1")
    with (
        pytest.raises(ConfigurationError),
        meter.reserve("acct_2", "app.chat.reply", amount=5, usage_event_id="turn-1"),
    ):
        pass
    assert 5 == bench.settled(meter)


def test_the_same_id_again_may_run_without_a_charge(bench):
    """`on_replay="run"`: the work goes on, nothing more is charged, and the app can see it."""
    meter = bench.meter(on_replay="run")
    charge(bench, meter, usage_event_id="turn-1")
    with meter.reserve(bench.account, "app.chat.reply", amount=5, usage_event_id="turn-1") as again:
        assert again.replayed
        again.settle(4)
        again.checkpoint()
        with meter.reserve(bench.account, "app.inner.call", amount=2):
            pass
    assert 7 == bench.settled(meter)


def test_deduct_is_idempotent(bench, meter):
    """The same id again answers with the charge that stands."""
    first = meter.deduct(bench.account, "app.export", 5, usage_event_id="export-1", metadata={"file": 7})
    again = meter.deduct(bench.account, "app.export", 5, usage_event_id="export-1")
    assert first.usage_event_id == again.usage_event_id
    assert 5 == bench.settled(meter)
    (sent,) = [each for each in bench.control.books(bench.account)["transactions"] if each["kind"] == "deduct"]
    assert 7 == sent["metadata"]["file"]
    with pytest.raises(ConfigurationError):
        meter.deduct("acct_2", "app.export", 5, usage_event_id="export-1")


def test_charges_can_be_listed_by_state(bench, meter):
    """Newest first; a state that is none is refused."""
    charge(bench, meter, 1)
    charge(bench, meter, 2)
    bench.settled(meter)
    assert [2, 1] == [each.amount for each in meter.charges("settled")]
    assert [] == meter.charges(["open", "unresolved"])
    assert [2] == [each.amount for each in meter.charges(limit=1)]
    assert meter.charges()[0].to_dict()["created_at"].endswith("+00:00")
    with pytest.raises(ConfigurationError, match="no charge state"):
        meter.charges("paid")


def test_carry_rounds_over_many_charges(bench):
    """Ten charges of 0.4 credits cost four credits, not ten (money rule 11)."""
    from countwerk_meter import Usage

    meter = bench.meter(rounding="carry")
    for _ in range(10):
        with meter.reserve(bench.account, "app.chat.reply", amount=3) as reservation:
            reservation.record(Usage(input_tokens=400))
    assert 4 == bench.settled(meter)
    assert 10 == len(meter.charges("settled"))


_CHILD = """
import os, sys, signal, time
from countwerk_meter import Meter, Usage
url, key, path, mode = sys.argv[1:]
meter = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}", prices=%r)
if mode == "forks":
    with meter.reserve("acct_1", "app.parent", amount=2): pass
    child = os.fork()
    with meter.reserve("acct_1", "app.both", amount=3): pass
    assert meter.flush(10)
    if child == 0:
        meter.close(); os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
elif mode == "forks-busy":
    import threading
    stop = threading.Event()
    def work():
        while not stop.is_set():
            meter.deduct("acct_2", "app.work", 1)
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads: thread.start()
    for turn in range(5):
        child = os.fork()
        if child == 0:
            signal.alarm(30)
            meter.deduct("acct_1", "app.child", 1)
            with meter.reserve("acct_1", "app.child", amount=2): pass
            meter.close(); os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
    stop.set()
    for thread in threads: thread.join()
elif mode == "forks-open":
    block = meter.reserve("acct_1", "app.parent", amount=2).begin()
    child = os.fork()
    if child == 0:
        with meter.reserve("acct_1", "app.child", amount=3): pass
        os._exit(0 if meter.close(10) else 1)
    assert os.waitpid(child, 0)[1] == 0
    block.finish()
elif mode == "outlived":
    meter.deduct("acct_1", "app.parent", 1)
    child = os.fork()
    if child:
        meter.close(); os.waitpid(child, 0); os._exit(0)
    time.sleep(0.5)
    other = Meter("product_1", api_key=key, base_url=url, journal=f"sqlite:///{path}"); other.close()
    with meter.reserve("acct_1", "app.child", amount=5): pass
    os.kill(os.getpid(), signal.SIGKILL)
elif mode == "ends":
    with meter.reserve("acct_1", "app.chat.reply", amount=5): pass
else:
    reservation = meter.reserve("acct_1", "app.chat.reply", amount=5).begin()
    if mode != "killed-empty":
        reservation.record(Usage(input_tokens=3000)); reservation.checkpoint()
        meter.journal.run(__import__("countwerk_meter._flow.overview", fromlist=["x"]).Charges(url))
    os.kill(os.getpid(), signal.SIGKILL)
"""


def child(bench, mode):
    return subprocess.run(
        [
            sys.executable,
            "-W",
            "error",
            # Python 3.12 and later say of every such fork that it may be dangerous: that is what is tested here.
            "-W",
            "ignore:This process:DeprecationWarning",
            "-c",
            textwrap.dedent(_CHILD % (bench.prices,)),
            bench.sandbox.url,
            bench.sandbox.api_key,
            str(bench.path),
            mode,
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_process_that_ends_settles_at_exit(bench):
    """No `close` was called, and the charge is there."""
    done = child(bench, "ends")
    assert (0, "") == (done.returncode, done.stderr)
    assert {"spent": 5, "reserved": 0, "available": 95} == bench.books()


def test_a_forked_child_is_an_owner_of_its_own(bench):
    """A meter made before a fork works in both, with a thread, connections and an owner for each."""
    done = child(bench, "forks")
    assert (0, "") == (done.returncode, done.stderr)
    assert {"spent": 8, "reserved": 0, "available": 92} == bench.books()


def test_forks_while_others_commit(bench):
    """The journal is let go of for the length of a fork, so no child inherits a lock that nobody releases."""
    bench.control.account("acct_2", balance=100_000, ai_product_id="product_1")
    done = child(bench, "forks-busy")
    assert (0, "") == (done.returncode, done.stderr)
    assert {"spent": 15, "reserved": 0, "available": 85} == bench.books()


def test_a_child_waits_for_none_of_its_parents_calls(bench):
    """A call that was open at the fork is the parent's: the child closes without it, and the parent charges it once."""
    done = child(bench, "forks-open")
    assert (0, "") == (done.returncode, done.stderr)
    assert {"spent": 5, "reserved": 0, "available": 95} == bench.books()


def test_a_child_that_outlives_its_parent_loses_no_charge(bench):
    """The parent closed the file, another process opened and closed it, the child was killed: its charge is there."""
    assert 0 == child(bench, "outlived").returncode
    assert 6 == bench.settled(bench.meter())


@pytest.mark.parametrize(("mode", "credits"), [("killed", 3), ("killed-empty", 0)])
def test_a_killed_process_is_recovered_by_the_next(bench, mode, credits):
    """Its last checkpoint is charged, else nothing, and the hold is given back."""
    assert -signal.SIGKILL == child(bench, mode).returncode
    assert 5 == bench.books()["reserved"]
    meter = bench.meter()
    assert credits == bench.settled(meter)
    assert 1 == len(bench.named("recovered"))
    assert not any(meter.recover().__getattribute__(name) for name in ("closed", "resumed", "orphans"))


def test_owners_leave_nothing_behind(bench):
    """A closed meter removes its lock file."""
    meter = bench.meter()
    owners = bench.path.with_name(bench.path.name + ".owners")
    assert 1 == len(os.listdir(owners))
    meter.close()
    assert [] == os.listdir(owners)
