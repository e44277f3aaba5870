"""What comes after a crash: a request that was on its way, and the same step, tried again by somebody else."""

import pytest

from . import auditor

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


@pytest.mark.parametrize(
    ("scenario", "costs", "told"),
    [
        ("plain", 3, ["ChargeAlreadySettledError"]),
        ("plain, settled with deducts", 3, ["ChargeAlreadySettledError"]),
        # A flat price answers with the charge that stands.
        ("flat", 4, []),
    ],
)
def test_a_step_that_is_tried_again_after_a_crash_is_charged_once(crash_bench, scenario, costs, told):
    """Under the same id, whatever the first one came to: what was charged is not charged anew, the rest is begun anew."""
    trials = [crash_bench.trial(scenario, point) for point in crash_bench.boundaries(scenario)]
    crash_bench.run(f"before it is tried again: {scenario}", trials)
    for trial in trials:
        crash_bench.again(trial)
        facts = auditor.read_facts(trial.folder / "again.log")
        was_charged = trial.finding.charged == costs
        assert told * was_charged == [fact["failed"] for fact in facts if "failed" in fact], trial.name
        assert costs == crash_bench.books(trial)["spent"], trial.name
