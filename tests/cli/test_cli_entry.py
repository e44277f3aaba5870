"""The console script itself: that it is installed, what it says without its extra, and how it fails."""

import shutil
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

import countwerk_meter

COMMANDS = (
    "balance",
    "charges",
    "demo",
    "doctor",
    "price",
    "purchase-links",
    "replay",
    "resolve-order",
    "sandbox",
    "settle",
)


def run(*args):
    return subprocess.run(args, capture_output=True, text=True, timeout=60, check=False)


def test_the_console_script_is_installed():
    """`countwerk-meter --version` works as users type it."""
    script = shutil.which("countwerk-meter", path=str(Path(sys.executable).parent))
    assert script is not None
    done = run(script, "--version")
    assert (0, f"countwerk-meter {countwerk_meter.__version__}\n", "") == (done.returncode, done.stdout, done.stderr)


def test_the_entry_point_is_main():
    """So that the installed script and the package agree."""
    (script,) = entry_points(group="console_scripts", name="countwerk-meter")
    assert "countwerk_meter.cli:main" == script.value


def test_without_the_extra_it_says_what_to_install():
    """One line and exit code 2, no traceback."""
    code = "import sys; sys.modules['typer'] = None\nfrom countwerk_meter.cli import main; main()"
    done = run(sys.executable, "-c", code)
    assert (2, "") == (done.returncode, done.stdout)
    assert "countwerk-meter: the command line needs its extra: pip install 'countwerk-meter[cli]'\n" == done.stderr


def test_a_defect_in_the_package_is_not_taken_for_a_missing_extra():
    """A module of ours that is missing is a defect, and shows as one."""
    code = "import sys; sys.modules['countwerk_meter.client'] = None\nfrom countwerk_meter.cli import main; main()"
    done = run(sys.executable, "-c", code)
    assert 1 == done.returncode
    assert "ModuleNotFoundError" in done.stderr


def test_replay_and_demo_say_which_extra_they_need():
    """Without the sandbox's packages: exit code 2 and one line."""
    code = "import sys; sys.modules['uvicorn'] = None\nfrom countwerk_meter.cli import main; main()"
    done = run(sys.executable, "-c", code, "replay", "trace.csv", "--prices", "prices.json")
    assert 2 == done.returncode
    assert (
        "countwerk-meter replay: it needs its extra: pip install 'countwerk-meter[cli,sandbox]' (uvicorn is missing)\n"
        == done.stderr
    )


def test_help_names_every_command(cli):
    """Without arguments too: the help is the answer."""
    done = cli("--help")
    assert 0 == done.code
    assert all(f" {command} " in done.out for command in COMMANDS)
    assert "COUNTWERK_API_KEY" in done.out
    assert "sandbox" in cli().out


def test_every_command_takes_json_and_none_takes_a_key(cli):
    """Arguments stand in process lists; only the sandbox's own play key is one."""
    for command in COMMANDS:
        done = cli(command, "--help", COLUMNS="200")
        assert 0 == done.code
        assert "--json" in done.out
        assert ("--api-key" in done.out) == (command == "sandbox")


def test_an_option_that_does_not_exist_is_usage(cli):
    """Exit code 2, as every usage error."""
    assert 2 == cli("balance", "acct", "--no-such").code
