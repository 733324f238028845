"""An app with a tracer provider, set where the module is imported: before a pool forks."""

from __future__ import annotations

import os
from pathlib import Path

from celery import Celery
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

from rebound_celery import Rebound

SPANS = Path(os.environ["TEST_SPANS"])


class File(SpanExporter):
    """Writes a line for each span: its process, its name, its trace, and its error."""

    def export(self, spans: tuple[ReadableSpan, ...]) -> SpanExportResult:  # type: ignore[override]
        for span in spans:
            context = span.get_span_context()
            assert context is not None
            with SPANS.open("a") as file:
                file.write(f"{os.getpid()} {span.name} {context.trace_id:032x} {span.status.status_code.name}\n")
        return SpanExportResult.SUCCESS


provider = TracerProvider()
provider.add_span_processor(SimpleSpanProcessor(File()))
trace.set_tracer_provider(provider)

app = Celery("traced", broker=os.environ["TEST_REDIS_URL"])
rebound = Rebound(app, kafka_brokers=os.environ["TEST_KAFKA"], outage_delay=0.2)
