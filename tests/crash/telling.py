"""What the trials came to, as a table."""

import statistics


def summary(what, trials):
    """Return what one scenario's trials came to, as plain data: it may come from another process."""
    return {
        "what": what,
        "points": [str((trial.scenario, trial.at, trial.then)) for trial in trials],
        "sums": [sum(getattr(trial.finding, column) for trial in trials) for column in _COLUMNS],
        "seconds": [trial.seconds for trial in trials],
    }


def table(told):
    """Write what was found, a line each, and how long recovery took."""
    told = sorted(told, key=lambda each: each["what"])
    lines = [_WIDTHS.format("", "points", "trials", *_COLUMNS)]
    lines += [_line(each["what"], [each]) for each in told]
    lines.append(_line("all", told))
    seconds = [second * 1000 for each in told for second in each["seconds"]]
    lines.append(
        f"recovery, from opening the journal to rest: min {min(seconds):.0f} ms, "
        f"median {statistics.median(seconds):.0f} ms, max {max(seconds):.0f} ms"
    )
    return "\n".join(lines)


def _line(what, told):
    points = len({point for each in told for point in each["points"]})
    trials = sum(len(each["seconds"]) for each in told)
    sums = [sum(column) for column in zip(*(each["sums"] for each in told), strict=True)]
    return _WIDTHS.format(what, points, trials, *sums)


# In credits, but for `listed`: charges. `in_doubt`: held without a name until its validity is over.
_COLUMNS = ("due", "charged", "doubled", "lost", "stranded", "in_doubt", "listed")
_WIDTHS = "{:<62}{:>7}{:>7}" + "{:>9}" * len(_COLUMNS)
