"""
What pricing one call costs, by the number of rules in the profile.

Each profile prices the five dimensions of a model call for as many models as fit, plus a fallback for input and output;
the call priced is the last model's, with all five. Prints the best of several rounds in microseconds: whatever else the
machine does only adds to it. Loading is once per process, and so in milliseconds.
"""

import argparse
import json
import time
import timeit

from countwerk_meter.pricing import PriceProfile

DIMENSIONS = (
    "llm_input_tokens",
    "llm_output_tokens",
    "llm_cache_read_tokens",
    "llm_cache_write_tokens",
    "llm_reasoning_tokens",
)


def profile(rules):
    """A profile of so many rules, as a vendor would write it: the fallbacks first, then model by model."""
    listed = [
        {"id": f"fallback.{name}", "dimensionKey": name, "creditsPerUnit": 0.0005, "costPerUnitEur": 0.000003}
        for name in DIMENSIONS[:2]
    ]
    listed += [
        {
            "id": f"model-{model}.{name}",
            "dimensionKey": name,
            "creditsPerUnit": 0.00018,
            "costPerUnitEur": 0.00000115,
            "attributesMatch": {"model": [f"model-{model}", f"model-{model}-2026-01-15"]},
            "priority": 10,
        }
        for model in range(rules // 5 + 1)
        for name in DIMENSIONS
    ]
    return {"profileVersionId": "bench", "eurPerCredit": 0.01, "rateRules": listed[:rules]}


def measure(rules, rounds, calls):
    document = profile(rules)
    started = time.perf_counter()
    loaded = PriceProfile.load(document)
    load = time.perf_counter() - started
    # The last model with all five dimensions, as far as the rules go.
    models = [rule["attributesMatch"]["model"][0] for rule in document["rateRules"] if "attributesMatch" in rule]
    complete = [model for model in models if models.count(model) == len(DIMENSIONS)]
    attributes = {"model": complete[-1] if complete else "any"}
    measured = {name: 1000 + index for index, name in enumerate(DIMENSIONS) if loaded.prices(name, attributes)}
    seconds = min(timeit.repeat(lambda: loaded.price(measured, attributes), number=calls, repeat=rounds)) / calls
    return {"dimensions": len(measured), "price_us": round(seconds * 1e6, 1), "load_ms": round(load * 1e3, 1)}


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--calls", type=int, default=1000)
    options = parser.parse_args()
    figures = {f"{rules} rules": measure(rules, options.rounds, options.calls) for rules in (1, 50, 1000)}
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
