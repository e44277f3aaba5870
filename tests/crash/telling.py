"""What the trials came to, as a table."""

import statistics


def table(told):
    """Write what was found, a line each for `(what, trials)`, and how long recovery took."""
    lines = [_WIDTHS.format("", "points", "trials", *_COLUMNS)]
    lines += [_line(what, trials) for what, trials in told]
    trials = [trial for _, trials in told for trial in trials]
    lines.append(_line("all", trials))
    seconds = [trial.seconds * 1000 for trial in trials]
    lines.append(
        f"recovery, from opening the journal to rest: min {min(seconds):.0f} ms, "
        f"median {statistics.median(seconds):.0f} ms, max {max(seconds):.0f} ms"
    )
    return "\n".join(lines)


def _line(what, trials):
    points = len({(trial.scenario, trial.at, trial.then) for trial in trials})
    sums = [sum(getattr(trial.finding, column) for trial in trials) for column in _COLUMNS]
    return _WIDTHS.format(what, points, len(trials), *sums)


# In credits, but for `listed`: charges. `in_doubt`: held without a name until its validity is over.
_COLUMNS = ("due", "charged", "doubled", "lost", "stranded", "in_doubt", "listed")
_WIDTHS = "{:<62}{:>7}{:>7}" + "{:>9}" * len(_COLUMNS)
