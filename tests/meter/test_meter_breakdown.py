"""What the journal keeps of a price, so that a bill can be explained when the profile is gone."""

from decimal import Decimal

from countwerk_meter import PriceProfile, Usage


def lines_of(bench, meter):
    bench.settled(meter)
    (charge,) = meter.charges()
    return charge.lines


def test_a_charge_keeps_its_breakdown(bench, meter):
    """Rule, quantity and rate of each dimension, which version of which profile, and the hash of its rules."""
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as reservation:
        reservation.record(Usage(input_tokens=1500, output_tokens=400), model="gpt-5")

    (line,) = lines_of(bench, meter)
    assert {"model": "gpt-5"} == line["attributes"]
    assert ["test-1", PriceProfile.load(bench.prices).ruleset_hash] == [line["profile"], line["ruleset_hash"]]
    assert [("llm_input_tokens", "1500", "in"), ("llm_output_tokens", "400", "out")] == [
        (part["dimension"], part["quantity"], part["rule"]) for part in line["breakdown"]
    ]
    worked_out = sum(Decimal(part["quantity"]) * Decimal(part["credits_per_unit"]) for part in line["breakdown"])
    assert Decimal("2.7") == worked_out == Decimal(line["credits"])


def test_what_had_no_price_is_kept_beside_what_had(bench, meter):
    """A dimension that no rule prices is named, with its quantity, and why the charge is in doubt."""
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as reservation:
        reservation.record(Usage(input_tokens=1000), dimensions={"pages": 2}, model="gpt-5")

    (line,) = lines_of(bench, meter)
    assert ["in"] == [part["rule"] for part in line["breakdown"]]
    assert (["pages"], "UNMATCHED_DIMENSION", "2") == (
        line["unmatched"],
        line["quarantine"],
        line["dimensions"]["pages"],
    )
