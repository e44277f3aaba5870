"""Spans, metrics and ids, with opentelemetry-api alone and with the SDK."""

import logging

import pytest
from opentelemetry import trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from countwerk_meter import ConfigurationError, InsufficientCreditsError

from .leasing import leased


@pytest.fixture
def spans():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    yield provider, exporter
    provider.shutdown()


@pytest.fixture
def figures():
    reader = InMemoryMetricReader()
    provider = MeterProvider([reader])

    def read():
        found = {}
        for resource in reader.get_metrics_data().resource_metrics:
            for each in resource.scope_metrics:
                for metric in each.metrics:
                    points = metric.data.data_points
                    found[metric.name] = sum(
                        getattr(point, "value", None) or getattr(point, "count", 0) for point in points
                    )
        return found

    yield provider, read
    provider.shutdown()


def test_the_settlement_is_linked_to_the_calls_trace(bench, spans):
    """`countwerk.reserve` stands in the call's own trace; `countwerk.settle` links back to it."""
    provider, exporter = spans
    meter = bench.meter(tracer_provider=provider)
    with provider.get_tracer("app").start_as_current_span("request") as request:
        with meter.reserve(bench.account, "app.chat.reply", amount=5):
            pass
    bench.settled(meter)
    meter.close()
    found = {span.name: span for span in exporter.get_finished_spans()}
    trace_id = request.get_span_context().trace_id
    assert trace_id == found["countwerk.reserve"].context.trace_id
    assert [trace_id] == [link.context.trace_id for link in found["countwerk.settle"].links]
    assert trace_id != found["countwerk.settle"].context.trace_id
    assert "app.chat.reply" == found["countwerk.reserve"].attributes["countwerk.operation"]
    assert f"{trace_id:032x}" in found["countwerk.reserve"].attributes["countwerk.usage_event_id"]


def test_taking_a_lease_is_a_span_of_its_own(rich, spans):
    """It belongs to no call's trace, and says what came of it."""
    provider, exporter = spans
    meter = rich.meter(tracer_provider=provider, leases=True)
    with provider.get_tracer("app").start_as_current_span("request") as request:
        leased(rich, meter)
    meter.close()
    (taking,) = [span for span in exporter.get_finished_spans() if span.name == "countwerk.lease"]
    assert taking.parent is None
    assert request.get_span_context().trace_id != taking.context.trace_id
    assert (rich.account, "app.call", "taken") == tuple(
        taking.attributes[f"countwerk.{name}"] for name in ("account_id", "operation", "lease")
    )


def test_credits_are_counted(bench, figures):
    """Reserved, charged, refused; the ledger's latency; no charge left open."""
    provider, read = figures
    meter = bench.meter(meter_provider=provider)
    with meter.reserve(bench.account, "app.chat.reply", amount=5) as reservation:
        assert 1 == read()["countwerk.charges.open"]
        reservation.settle(3)
    with pytest.raises(InsufficientCreditsError), meter.reserve(bench.account, "app.chat.reply", amount=500):
        pass
    bench.settled(meter)
    assert {
        "countwerk.credits.reserved": 5,
        "countwerk.credits.charged": 3,
        "countwerk.credits.refused": 500,
        "countwerk.charges.open": 0,
    } == {name: value for name, value in read().items() if name != "countwerk.ledger.duration"}
    assert read()["countwerk.ledger.duration"] >= 4


def test_no_span_metric_or_log_holds_a_secret_or_a_url(bench, spans, figures, caplog):
    """Not in spans, metrics, events or log lines."""
    caplog.set_level(logging.DEBUG)
    meter = bench.meter(tracer_provider=spans[0], meter_provider=figures[0])
    with pytest.raises(InsufficientCreditsError) as caught, meter.reserve(bench.account, "app.chat.reply", amount=500):
        pass
    with meter.reserve(bench.account, "app.chat.reply", amount=5):
        pass
    bench.settled(meter)
    said = caplog.text + repr(bench.events) + "".join(span.to_json() for span in spans[1].get_finished_spans())
    assert bench.sandbox.api_key not in said
    assert not any(option.url in said for option in caught.value.purchase_links.enabled)
    assert bench.sandbox.api_key.encode() not in bench.path.read_bytes()


def test_a_listener_that_fails_is_its_own_problem(bench):
    """An exception in `on_event` stops nothing."""

    def listen(name, fields):
        raise ValueError(name)

    meter = bench.meter(on_event=listen)
    with meter.reserve(bench.account, "app.chat.reply", amount=5):
        pass
    assert 5 == bench.settled(meter)


def span_in(trace_id, span_id, *, remote=False):
    context = SpanContext(trace_id, span_id, is_remote=remote, trace_flags=TraceFlags(0))
    return trace.use_span(NonRecordingSpan(context))


def test_with_the_api_alone_an_id_names_its_span(bench, meter):
    """Trace id first, two calls in one span are two charges, another span is another charge."""
    ids = []
    for span in (1, 1, 2):
        with span_in(0xABC, span), meter.reserve(bench.account, "app.chat.reply", amount=1) as reservation:
            ids.append(reservation.usage_event_id)
    assert 3 == len(set(ids))
    assert all(each.startswith(f"cw.{0xABC:032x}.") for each in ids)
    assert 3 == bench.settled(meter)
    assert {f"{0xABC:032x}"} == {charge.trace_id for charge in meter.charges()}


def test_a_remote_span_names_nothing(bench, meter):
    """Whoever sends the same `traceparent` for ever pays every time."""
    for _ in range(2):
        with span_in(0xABC, 1, remote=True), meter.reserve(bench.account, "app.chat.reply", amount=1):
            pass
    assert 2 == bench.settled(meter)


def test_a_trace_can_be_required(bench):
    """Without a span there is an error instead of an id made up; an explicit id will do."""
    meter = bench.meter(require_trace=True)
    with pytest.raises(ConfigurationError, match="require_trace"), meter.reserve(bench.account, "app.chat", amount=1):
        pass
    with meter.reserve(bench.account, "app.chat", amount=1, usage_event_id="turn-1"):
        pass
    assert 1 == bench.settled(meter)
