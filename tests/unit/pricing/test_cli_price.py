"""The command as a user runs it: what it prints and how it exits."""

import json
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from countwerk_meter.cli.answers import say
from countwerk_meter.cli.app import app

PROFILE = str(Path(__file__).parents[3] / "examples" / "prices.json")
MODEL = ["--attribute", "model=gpt-5"]


def run(*args):
    return CliRunner().invoke(app, ["price", *args], env={"COLUMNS": "120", "NO_COLOR": "1"})


def test_the_lines_and_the_total_are_shown():
    """Each dimension with its rule, then what will be deducted and under which ruleset."""
    done = run(PROFILE, "llm_input_tokens=1500", "llm_output_tokens=400", *MODEL)
    assert 0 == done.exit_code
    lines = [line.split() for line in done.output.splitlines()]
    assert ["llm_input_tokens", "gpt-5.input", "1500", "0.00018", "0.27"] in lines
    assert ["llm_output_tokens", "gpt-5.output", "400", "0.0014", "0.56"] in lines
    assert ["Total", "0.83", "credits"] in lines
    assert ["To", "deduct", "1", "credit"] in lines
    assert ["Own", "cost", "0.005405", "EUR"] in lines
    assert ["Ruleset", "7cf7eb0bc7c4e787f51a75c559946af61d31ecae85aea529b85bb3c3d23b358c"] in lines


def test_the_rules_that_lost_are_named_with_the_reason():
    """So that a surprising price explains itself; --no-why leaves it at the lines."""
    done = run(PROFILE, "llm_input_tokens=1", *MODEL)
    assert "llm_input_tokens: gpt-5.input" in done.output
    assert "  not fallback.input: priority 0 is below 10" in done.output
    assert "fallback.input" not in run(PROFILE, "llm_input_tokens=1", *MODEL, "--no-why").output


def test_of_many_losers_the_first_are_shown(tmp_path):
    """A profile of fifty models does not scroll the price away; JSON has them all."""
    path = tmp_path / "prices.json"
    rules = [{"id": f"r{n:02}", "dimensionKey": "d", "creditsPerUnit": 1} for n in range(13)]
    path.write_text(json.dumps({"profileVersionId": "v", "eurPerCredit": 1, "rateRules": rules}), encoding="utf-8")
    done = run(str(path), "d=1")
    assert "  not r10: its id sorts after r00\n  and 2 more, which --json lists\n" in done.output
    assert 12 == len(json.loads(run(str(path), "d=1", "--json").output)["explanation"][0]["others"])


def test_a_line_is_folded_for_a_terminal_only():
    """Between words, under its beginning; a file gets it whole."""
    screen, file = (
        Console(width=30, force_terminal=terminal, highlight=False, file=StringIO()) for terminal in (True, False)
    )
    for console in (screen, file):
        say(console, "  not gpt-5.input-rule: model is missing", indent=6)
    assert "  not gpt-5.input-rule: model\n      is missing\n" == screen.file.getvalue()
    assert "  not gpt-5.input-rule: model is missing\n" == file.file.getvalue()


def test_json_is_the_contract_s_result():
    """For scripts: the same names as the vendor's."""
    done = run(PROFILE, "llm_input_tokens=4000", "--json")
    data = json.loads(done.output)
    assert (2, ["fallback.input"]) == (data["totalCredits"], data["ruleIdsUsed"])
    assert "fallback.input" == data["explanation"][0]["ruleId"]
    assert "model is missing" in data["explanation"][0]["others"][0]["reason"]
    assert "explanation" not in json.loads(run(PROFILE, "llm_input_tokens=4000", "--json", "--no-why").output)


def test_what_has_no_price_is_exit_1_in_strict():
    """The answer is no, in one line."""
    done = run(PROFILE, "llm_input_tokens=1", "pages=2")
    assert (1, "") == (done.exit_code, done.stdout)
    assert (
        "countwerk-meter price: no active rule of profile example-2026-01 matches pages with no attributes\n"
        == done.stderr
    )


def test_what_the_meter_folds_is_said_so():
    """A pool without a price of its own is no mistake in a usage: the meter charges it as its parent."""
    done = run(PROFILE, "llm_reasoning_tokens=5")
    assert 1 == done.exit_code
    assert done.stderr.endswith(
        "matches llm_reasoning_tokens with no attributes"
        " (the meter charges llm_reasoning_tokens as llm_output_tokens then)\n"
    )


def test_a_misstated_hash_is_exit_1_in_strict(tmp_path):
    """The profile can be read, but is not what it says it is."""
    path = tmp_path / "prices.json"
    path.write_text(Path(PROFILE).read_text(encoding="utf-8").replace("7cf7eb0b", "00000000"), encoding="utf-8")
    assert 1 == run(str(path), "llm_input_tokens=1").exit_code
    runtime = run(str(path), "llm_input_tokens=1", "--mode", "RUNTIME")
    assert 0 == runtime.exit_code
    assert "RULESET_HASH_MISMATCH" in runtime.output


def test_runtime_shows_what_is_left_out():
    """An unmatched dimension and one that is passed over stay visible."""
    done = run(PROFILE, "llm_input_tokens=1", "pages=2", "seconds=0", "--mode", "runtime")
    assert 0 == done.exit_code
    assert "no rule" in done.output
    assert "passed over: not above 0" in done.output
    assert "UNMATCHED_DIMENSION" in done.output
    assert "pages: no rule" in done.output


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((PROFILE, "llm_input_tokens"), "'llm_input_tokens' is not of the form DIMENSION=QTY"),
        ((PROFILE, "=5"), "'=5' is not of the form DIMENSION=QTY"),
        ((PROFILE, "a="), "'a=' is not of the form DIMENSION=QTY"),
        ((PROFILE, "a=1", "a=2"), "a is given twice"),
        ((PROFILE, "a=1", "-a", "model"), "'model' is not of the form KEY=VALUE"),
        ((PROFILE, "a=much"), "the quantity of a must be a number, not 'much'"),
        ((PROFILE, "a=1", "--mode", "soft"), "the mode must be STRICT or RUNTIME, not SOFT"),
        (("none.json", "a=1"), "the price profile none.json cannot be read: No such file or directory"),
        (("{}", "a=1"), "the price profile: eurPerCredit must be a number above 0, but is missing"),
    ],
)
def test_bad_input_is_exit_2_in_one_line(args, message):
    """Usage mistakes and broken profiles, without a traceback."""
    done = run(*args)
    assert (2, "", f"countwerk-meter price: {message}\n") == (done.exit_code, done.stdout, done.stderr)


def test_names_are_text_and_no_markup(tmp_path):
    """A rule called [red] is shown as it is called."""
    path = tmp_path / "prices.json"
    rule = {"id": "[red]x", "dimensionKey": "d", "creditsPerUnit": 10}
    path.write_text(json.dumps({"profileVersionId": "v", "eurPerCredit": 1, "rateRules": [rule]}), encoding="utf-8")
    done = run(str(path), "d=1")
    assert 2 == done.output.count("[red]x")
    assert "Own cost" not in done.output
    assert "10 credits" in done.output
