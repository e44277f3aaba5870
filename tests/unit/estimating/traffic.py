"""Calls of the shape of a public trace of chat traffic: three stretches of time, each with its own distributions."""

import csv
import json
import random
from pathlib import Path

SHAPE = json.loads((Path(__file__).parent / "shape.json").read_text())


def drawn(points, where):
    """Read a value off an inverse distribution that is given at equal steps."""
    position = where * (len(points) - 1)
    below = min(int(position), len(points) - 2)
    return round(points[below] + (points[below + 1] - points[below]) * (position - below))


def generated(calls, seed):
    """Return `calls` pairs of input and output tokens, in order."""
    chance = random.Random(seed)
    for number in range(calls):
        sizes = chance.choice(SHAPE[number * len(SHAPE) // calls])
        yield drawn(sizes["input"], chance.random()), drawn(sizes["output"], chance.random())


def traced(path):
    """Return the calls of a trace with the columns `ContextTokens` and `GeneratedTokens`."""
    with Path(path).open(newline="") as file:
        for row in csv.DictReader(file):
            yield int(row["ContextTokens"]), int(row["GeneratedTokens"])
