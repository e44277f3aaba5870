"""`countwerk-meter price lint` as a user runs it, beside `price` itself."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from countwerk_meter.cli.app import app

PROFILE = str(Path(__file__).parents[3] / "examples" / "prices.json")
RULES = [
    {"id": "in", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 1},
    {"id": "late", "dimensionKey": "llm_input_tokens", "creditsPerUnit": 1},
    {"id": "out", "dimensionKey": "llm_output_tokens", "creditsPerUnit": 1},
]


def run(*args):
    return CliRunner().invoke(app, args, env={"COLUMNS": "120", "NO_COLOR": "1"})


@pytest.fixture
def written(tmp_path):
    """Write a profile of these rules and give its path."""

    def write(rules, name="prices.json"):
        path = tmp_path / name
        path.write_text(json.dumps({"profileVersionId": "v", "eurPerCredit": 1, "rateRules": rules}), encoding="utf-8")
        return str(path)

    return write


def test_a_clean_profile_is_exit_0():
    """The one that the examples use."""
    done = run("price", "lint", PROFILE)
    assert (0, "no problems, no notes\n") == (done.exit_code, done.stdout)


def test_a_problem_is_exit_1_and_a_line(written):
    """Each with its kind first; notes say that they are."""
    done = run("price", "lint", written(RULES))
    assert 1 == done.exit_code
    assert [
        "shadowed: rule late is never chosen: where it matches, it loses to in (its id sorts after in)",
        "note, folded: llm_cache_read_tokens: no active rule; the meter charges it as llm_input_tokens",
        "note, folded: llm_cache_write_tokens: no active rule; the meter charges it as llm_input_tokens",
        "note, folded: llm_reasoning_tokens: no active rule; the meter charges it as llm_output_tokens",
        "1 problem, 3 notes",
    ] == done.stdout.splitlines()


def test_notes_alone_are_exit_0(written):
    """One may mean what they say."""
    done = run("price", "lint", written([RULES[0], RULES[2]]))
    assert (0, "no problems, 3 notes") == (done.exit_code, done.stdout.splitlines()[-1])


def test_json_is_one_object(written):
    """For the build that publishes profiles."""
    done = run("price", "lint", written(RULES), "--json")
    data = json.loads(done.stdout)
    assert (1, False, 1, 3) == (done.exit_code, data["clean"], data["problems"], data["notes"])
    assert {
        "kind": "shadowed",
        "severity": "problem",
        "message": "rule late is never chosen: where it matches, it loses to in (its id sorts after in)",
        "rule_ids": ["late", "in"],
        "dimension": "llm_input_tokens",
    } == data["findings"][0]


def test_no_profile_is_exit_2():
    """In one line, and with --json as an object too."""
    done = run("price", "lint", "none.json")
    line = "countwerk-meter price lint: the price profile none.json cannot be read: No such file or directory\n"
    assert (2, "", line) == (done.exit_code, done.stdout, done.stderr)
    assert "INVALID_PROFILE" == json.loads(run("price", "lint", "none.json", "--json").stdout)["error"]["code"]
    assert 2 == run("price", "lint").exit_code


def test_price_needs_no_further_word(written, monkeypatch, tmp_path):
    """What is no command is a profile, options may come first, and a profile called lint has a path."""
    assert 0 == run("price", "--json", PROFILE, "llm_input_tokens=1").exit_code
    monkeypatch.chdir(tmp_path)
    written(RULES, "lint")
    assert "Total       2 credits" in run("price", "./lint", "llm_input_tokens=2").stdout


def test_the_help_of_price_names_both(written):
    """Its own options, and that there is a lint."""
    done = run("price", "--help")
    assert 0 == done.exit_code
    assert all(text in done.stdout for text in ("--attribute", "--json", "price lint PROFILE"))
