"""
Measure what metering costs, each figure as a ratio to its baseline in the same run.

Writes `results.json` and `results.md` beside this file. With `--check` it writes nothing, and fails where a ratio got
worse by more than a tenth against the stored one; such a row is measured twice more before it counts.
"""

import argparse
import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

from fast_ledger import fast_ledger
from frame import lines, load, machine, table, worse

_HERE = Path(__file__).parent
_STORED = _HERE / "results.json"
_TRANSPORTS = ("httpx", "fast")
# Module, and whether its figures depend on the transport.
_ROWS = {"gate": True, "floor": True, "many": True, "local": False, "size": False, "recovery": True}


def measured(module, transport, rounds):
    """One module's rows, from a process of its own: nothing that another one opened or imported weighs on it."""
    command = [sys.executable, str(_HERE / "bench.py"), "--one", module, "--rounds", str(rounds)]
    environment = os.environ | ({"COUNTWERK_TRANSPORT": transport} if transport else {})
    command += ["--transport", transport]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout
    return json.loads(output)


def one(module, transport, rounds):
    with fast_ledger() as url:
        figures = importlib.import_module(module).measure(url, transport, rounds)
    print(json.dumps([figure.as_dict() for figure in figures]))


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", help=f"which of {', '.join(_ROWS)}; default: all")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    parser.add_argument("--transport", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one, options.transport, options.rounds)
        return
    stored, found, complaints = load(_STORED), [], []
    for module in options.rows or _ROWS:
        for transport in _TRANSPORTS if _ROWS[module] else ("",):
            rows = measured(module, transport, options.rounds)
            for _ in range(2 * options.check):
                if not worse(stored["figures"], rows):
                    break
                rows = measured(module, transport, options.rounds)
            if options.check:
                complaints += worse(stored["figures"], rows)
            found += rows
            print(lines(rows), flush=True)
    if options.check:
        print("\n".join(complaints) or "no ratio got worse by more than a tenth")
        sys.exit(bool(complaints))
    fresh = {(row["figure"], row["transport"]) for row in found}
    kept = [row for row in stored["figures"] if (row["figure"], row["transport"]) not in fresh]
    about, figures = machine(), found + kept
    _STORED.write_text(json.dumps({"machine": about, "figures": figures}, indent=1) + "\n", encoding="utf-8")
    (_HERE / "results.md").write_text(table(about, figures), encoding="utf-8")


if __name__ == "__main__":
    main()
