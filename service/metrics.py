"""Prometheus metrics of one service, scraped at /metrics."""

from collections.abc import Iterator

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.gc_collector import GCCollector
from prometheus_client.process_collector import ProcessCollector
from prometheus_client.registry import Collector

from service.engine.interface import Generation
from service.runtime import Runtime

disable_created_metrics()  # a second series beside each counter, which few scrapers read

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300)


class Metrics:
    """Counters and histograms that the service feeds; a registry of its own, so that apps do not share."""

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        GCCollector(registry=registry)
        self._requests = Counter(
            "service_requests", "HTTP requests answered.", ["route", "status"], registry=registry
        )
        self._latency = Histogram(
            "service_request_seconds",
            "From a request's first byte to the end of its answer.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        self._tokens = Counter(
            "service_tokens", "Tokens of finished generations.", ["kind"], registry=registry
        )
        self._first_token = Histogram(
            "service_time_to_first_token_seconds",
            "From submission to the engine until the first token.",
            buckets=SECONDS,
            registry=registry,
        )
        self._batch_size = Histogram(
            "service_batch_size",
            "Requests that shared a decode step.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=registry,
        )

    def observe_request(self, route: str, status: int, seconds: float) -> None:
        self._requests.labels(route, status).inc()
        self._latency.labels(route).observe(seconds)

    def observe_step(self, rows: int) -> None:
        """One decode step of the engine; called in its thread."""
        self._batch_size.observe(rows)

    def observe_generation(self, generation: Generation, image_tokens: int) -> None:
        """A generation that came to its end."""
        self._tokens.labels("prompt").inc(len(generation.request.input_ids))
        self._tokens.labels("image").inc(image_tokens)
        self._tokens.labels("completion").inc(generation.completion_tokens)
        timings = generation.timings
        self._first_token.observe(timings.queue + timings.vision + timings.prefill)

    def watch(self, runtime: Runtime) -> None:
        """Adds gauges that are read from `runtime` at each scrape."""
        self._registry.register(_RuntimeCollector(runtime))

    def render(self) -> bytes:
        return generate_latest(self._registry)


class _RuntimeCollector(Collector):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        runtime = self._runtime
        admission = runtime.admission
        gauges = {
            "service_ready": ("1 while requests are taken in.", runtime.unready_reason() is None),
            "service_requests_in_progress": ("Requests taken in.", admission.requests),
            "service_tokens_in_progress": ("Tokens they may need at most.", admission.tokens),
        }
        if runtime.engine is not None:
            stats = runtime.engine.stats()
            gauges |= {
                "service_queue_length": ("Requests that wait for the engine.", stats.waiting),
                "service_running": ("Requests in the running batch.", stats.running),
                "service_cached_tokens": ("Tokens whose keys and values are held.", stats.cached_tokens),
                "service_cache_capacity_tokens": ("Tokens with memory allocated.", stats.cache_capacity),
            }
        if runtime.transcriber is not None:
            speech = runtime.transcriber.stats()
            gauges |= {
                "service_transcription_queue_length": ("Recordings that wait.", speech.waiting),
                "service_transcription_restarts": ("Speech workers replaced.", speech.restarts),
            }
        for name, (text, value) in gauges.items():
            yield GaugeMetricFamily(name, text, value=float(value))
