"""`usage_event_id`: what names a charge, in which order, and that it names it again."""

import re

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from countwerk_meter.errors import ConfigurationError, InvalidRequestError
from countwerk_meter.events import Ordinals, Step, checked_event_id, derive

FORM = re.compile(r"cw\.[0-9a-f]{32}\.[0-9a-f]{16}\Z")
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TASK = Step(("thread", "checkpoint", "task", "0"))
RUN = Step(("run-1",), durable=False)


def spanned(*, remote=False, sampled=True, span=SPAN, trace_id=TRACE):
    flags = TraceFlags(TraceFlags.SAMPLED if sampled else TraceFlags.DEFAULT)
    context = SpanContext(int(trace_id, 16), int(span, 16), is_remote=remote, trace_flags=flags)
    return trace.use_span(NonRecordingSpan(context))


@pytest.fixture
def name():
    """Derive the next id of one meter."""
    ordinals = Ordinals()

    def make(account="acct", operation="app.chat", **more):
        return derive(account, operation, ordinals, **more)

    return make


def test_an_explicit_id_comes_before_everything(name):
    """Used as it is; the trace is noted beside it."""
    with spanned():
        event = name(explicit="order-7", step=TASK)
    assert ("order-7", TRACE, SPAN, False) == (event.id, event.trace_id, event.span_id, event.durable)


def test_a_durable_step_comes_before_the_span(name):
    """Another worker that resumes it has another trace, and names it the same."""
    with spanned():
        here = name(step=TASK)
    with spanned(trace_id="1" * 32, span="2" * 16):
        there = name(step=TASK)
    assert here.id == there.id == name(step=TASK).id
    assert here.durable
    assert FORM.match(here.id)
    assert TRACE not in here.id
    assert (TRACE, SPAN, "1" * 32) == (here.trace_id, here.span_id, there.trace_id)


def test_a_trusted_callers_step_keeps_its_trace_findable(name):
    """Its trace id is the first part; the ordinal is the caller's business, so a retry meets itself."""
    step = Step(("traceparent", TRACE, SPAN, "POST", "/chat"), trace_id=TRACE)
    with spanned(remote=True):
        event = name(step=step)
    assert event.id.startswith(f"cw.{TRACE}.")
    assert (event.id, TRACE) == (name(step=step).id, name(step=step).trace_id)


def test_the_current_span_comes_before_a_frameworks_run(name):
    """The first part is the trace id itself: pasting it into a viewer finds the trace."""
    with spanned():
        event = name(step=RUN)
    assert f"cw.{TRACE}" == event.id[:35]
    assert FORM.match(event.id)
    assert not event.durable


def test_two_calls_in_one_span_are_two_charges_and_a_retry_of_both_is_none(name):
    """The ordinal counts within the span; another meter of the same process begins at 0 again."""
    with spanned():
        first, second = name().id, name().id
        again = [derive("acct", "app.chat", ordinals).id for ordinals in [Ordinals()] for _ in range(2)]
    assert first != second
    assert [first, second] == again


def test_another_span_is_another_charge(name):
    """Even of the same trace."""
    with spanned():
        first = name().id
    with spanned(span="1" * 16):
        assert first != name().id


def test_a_frameworks_run_names_what_no_span_does(name):
    """With an ordinal: a run of this process is not durable."""
    first, second = name(step=RUN), name(step=RUN)
    assert (True, True) == (bool(FORM.match(first.id)), first.id != second.id)
    assert first.id[:35] == second.id[:35]
    assert (None, None, False) == (first.trace_id, first.span_id, first.durable)


def test_without_any_name_every_charge_gets_its_own(name):
    """A UUIDv7: sortable by time, never twice the same."""
    ids = [name().id for _ in range(100)]
    assert 100 == len(set(ids))
    for made in ids:
        assert FORM.match(made)
        assert "7" == made[3:][12]
        assert made[3:][16] in "89ab"
    assert [made[:15] for made in ids] == sorted(made[:15] for made in ids)


def test_a_trace_may_be_required(name):
    """Then nothing is made up, and no ordinal is used up."""
    with pytest.raises(ConfigurationError, match="span"):
        name(require_trace=True)
    with spanned(remote=True), pytest.raises(ConfigurationError):
        name(require_trace=True)
    with spanned():
        assert name(require_trace=True).id.startswith(f"cw.{TRACE}.")
    assert name(require_trace=True, explicit="x").id == "x"
    assert name(require_trace=True, step=RUN).id


def test_a_remote_span_never_counts(name):
    """Whoever can choose an id can ride for free; the trace is noted all the same."""
    with spanned(remote=True):
        first, second = name(), name()
    assert first.id != second.id
    assert TRACE not in first.id
    assert (TRACE, SPAN) == (first.trace_id, first.span_id)
    with spanned(remote=True):
        run = name(step=RUN)
    assert TRACE not in run.id


@pytest.mark.parametrize("sampled", [True, False])
def test_an_unsampled_trace_counts_like_any_other(name, sampled):
    """Sampling decides what is exported, not what is charged."""
    with spanned(sampled=sampled):
        assert name().id.startswith(f"cw.{TRACE}.")


@pytest.mark.parametrize("sampler", [None, ALWAYS_OFF])
def test_with_the_sdk(name, sampler):
    """Its spans are found, sampled or not, and two spans are two charges."""
    provider = TracerProvider(**({} if sampler is None else {"sampler": sampler}), shutdown_on_exit=False)
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("outer") as outer:
        trace_id = f"{outer.get_span_context().trace_id:032x}"
        first = name()
        with tracer.start_as_current_span("inner"):
            second = name()
    assert (trace_id, trace_id) == (first.id[3:35], second.id[3:35])
    assert first.id != second.id
    provider.shutdown()


@pytest.mark.parametrize("more", [{"step": TASK}, {"step": RUN}, {}])
def test_every_derived_id_digests_account_and_operation(name, more):
    """The same step of another account or operation is another charge, at the same ordinal."""
    with spanned() if not more else trace.use_span(trace.INVALID_SPAN):
        ids = {name(*who, **more).id for who in (("a", "app.x"), ("b", "app.x"), ("a", "app.y"))}
    assert 3 == len(ids)


def test_parts_are_digested_unambiguously(name):
    """Moving a character from one part to the next makes another id."""
    ids = {name(*who, step=Step(parts)).id for who, parts in (
        (("ab", "c.op"), ("x", "yz")), (("a", "bc.op"), ("x", "yz")), (("ab", "c.op"), ("xy", "z")), (("ab", "c.op"), ("xyz",))
    )}  # fmt: skip
    assert 4 == len(ids)


def test_ids_are_stable_across_versions(name):
    """What was charged before an upgrade is not charged again after it."""
    with spanned():
        assert name().id == "cw.0af7651916cd43dd8448eb211c80319c.1bc75a4daba63d6b"
    assert name(step=TASK).id == "cw.cdb358708bf85335c4189998abeb2c3e.701b185dcfea94de"
    assert name(step=RUN).id == "cw.801c2d84619a7cd2a298a048601538b3.75799fa04d6ea2a1"


@pytest.mark.parametrize("value", ["a", "order-7", "x" * 59, "a.b_c-9", "cwx", "over", "late.x", "x.overs"])
def test_explicit_ids_that_are_ids(value):
    """Up to 59 characters, so that a leg's suffix still fits 64."""
    assert value == checked_event_id(value)
    assert len(value + ".over") <= 64


@pytest.mark.parametrize(
    "value",
    ["", "x" * 60, "A", "ä", "a b", "a\n", "a/b", "cw.x", "cw.", "x.over", "x.late", ".late", 7, None, b"x", ["x"]],
)
def test_explicit_ids_that_are_none(name, value):
    """Refused before anything is sent, with the contract's own code."""
    with pytest.raises(InvalidRequestError) as caught:
        checked_event_id(value)
    assert ("INVALID_USAGE_EVENT_ID", 400) == (caught.value.code, caught.value.status)
    if value is not None:
        with pytest.raises(InvalidRequestError):
            name(explicit=value)


def test_ordinals_are_bounded_and_forget_the_longest_unused():
    """A span that is still in use is not forgotten."""
    ordinals = Ordinals(limit=2)
    assert [0, 0, 1, 0, 2, 0] == [ordinals.next((key,)) for key in ("a", "b", "a", "c", "a", "b")]


def test_ordinals_count_across_threads():
    """No two calls of one span get the same."""
    from concurrent.futures import ThreadPoolExecutor

    ordinals = Ordinals()
    with ThreadPoolExecutor(8) as pool:
        numbers = list(pool.map(lambda _: ordinals.next(("span",)), range(800)))
    assert list(range(800)) == sorted(numbers)


def test_it_needs_opentelemetrys_api_alone():
    """Not a line of the SDK is imported."""
    import subprocess
    import sys

    text = (
        "import sys, countwerk_meter.events as e\n"
        "from opentelemetry import trace\n"
        "from opentelemetry.trace import NonRecordingSpan, SpanContext\n"
        "with trace.use_span(NonRecordingSpan(SpanContext(1, 2, is_remote=False))):\n"
        "    print(e.derive('a', 'app.x', e.Ordinals()).id[:35])\n"
        "print([name for name in sys.modules if name.startswith('opentelemetry.sdk')])"
    )
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    assert [f"cw.{1:032x}", "[]"] == done.stdout.split("\n")[:2]
