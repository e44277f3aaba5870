"""A request that was on its way when its process was killed, and arrives when another has recovered."""

_ON_THE_WAY = (
    ("plain", "reserve"),
    ("plain", "confirm-reservation"),
    ("failing", "cancel-reservation"),
    ("plain, settled with deducts", "deduct"),
    ("plain, settled with deducts", "cancel-reservation"),
    ("nested draws, over the hold", "deduct"),
    ("flat", "deduct"),
)
_DELAY = {"kind": "delay", "seconds": 1.0}


def test_a_request_that_arrives_after_its_process_died_does_no_harm(crash_bench):
    """The ledger has it, recovery does its work, and only then it is carried out."""
    trials = [crash_bench.trial(scenario, f"send {request} body #1") for scenario, request in _ON_THE_WAY]
    crash_bench.control.faults(
        [
            {"path": f"/api/credits/{request}", "account_id": trial.account, **_DELAY}
            for trial, (_, request) in zip(trials, _ON_THE_WAY, strict=True)
        ]
    )
    crash_bench.run_late("its request arrives after recovery", trials)
    assert [] == crash_bench.control.remaining_faults()
