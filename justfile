# The front door: `just` lists what there is.

# The tests start hundreds of processes: what one of them compiled, the others need not.
export PYTHONDONTWRITEBYTECODE := ""

set shell := ["bash", "-euo", "pipefail", "-c"]

_default:
    @just --list

# The whole test suite in three processes, because many tests wait, with branch coverage enforced.
test *args:
    uv run coverage erase
    uv run coverage run -m pytest -n 3 --dist loadfile --no-loadscope-reorder {{ args }}
    uv run coverage combine --quiet
    uv run coverage report

# Walk every state of the money flows, within bounds; COUNTWERK_TEST_DEEP=1 goes further.
model *args:
    uv run pytest -q tests/model {{ args }}

# Lint and formatting.
lint:
    uv run ruff check
    uv run ruff format --check

# Bring the formatting in order.
format:
    uv run ruff check --fix
    uv run ruff format

# Types: the package strictly, the public surface as a user's checker sees it.
types:
    uv run pyright
    uv run mypy tests/typing

# The import rules of the house.
imports:
    uv run lint-imports

# Build the wheels, and run the core's tests against the installed wheel in an environment of its own.
wheels:
    rm -rf dist
    uv build --all-packages --wheel --out-dir dist --quiet
    .ci/test-wheel

# Everything that has to hold before a change lands.
check: lint types imports test wheels

# The demonstration: a ledger, an app, a client, and what the books say.
demo *args:
    uv run countwerk-meter demo {{ args }}

# What metering costs, each figure as a ratio to its baseline in the same run; writes tests/benchmarks/results.md.
bench *args:
    uv run python tests/benchmarks/bench.py {{ args }}

# The same, and fail where a ratio got worse by more than a tenth against the stored one.
bench-check *args:
    uv run python tests/benchmarks/bench.py --check {{ args }}

# One reserve and confirm at the sandbox against two bare HTTP posts.
bench-round-trip:
    uv run python tests/benchmarks/round_trip.py

# Pricing one call, in microseconds, with 1, 50 and 1,000 rules.
bench-pricing:
    uv run python tests/benchmarks/pricing.py

# One invoke with the LangChain handler, without it, and with langchain-core's own counting handler.
bench-langchain:
    uv run python tests/benchmarks/langchain_overhead.py

# Every LangChain entry point against every way that a call can end, with what was charged.
outcomes-langchain:
    uv run python tests/benchmarks/langchain_outcomes.py

# What the ASGI middleware adds to a bare app: requests, chunks, the first byte, memory.
bench-asgi:
    uv run python tests/benchmarks/asgi.py

# Write the state diagrams and the outcome table into the rules, from the tables that the code reads.
rules:
    uv run python -m countwerk_meter._flow.diagram countwerk_meter/_flow/RULES.md

# Record the wire cassettes again, against the sandbox or the host that COUNTWERK_BASE_URL names.
record:
    COUNTWERK_RECORD=1 uv run pytest tests/wire
