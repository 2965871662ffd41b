"""What Prometheus may read: counts and times, nothing of any picture."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from deid.batch.in_memory import Result
from deid.serve.pool import Pool

_SECONDS = (0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 60, 120)


class Counters:
    """Of one service."""

    def __init__(self, pool: Pool) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "deid_requests", "Requests", ("route", "status"), registry=self.registry
        )
        self.seconds = Histogram(
            "deid_request_seconds",
            "Their time",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.refusals = Counter("deid_refusals", "By code", ("code",), registry=self.registry)
        self.pictures = Counter("deid_pictures", "By verdict", ("verdict",), registry=self.registry)
        self.faces = Counter(
            "deid_faces", "By method and verdict", ("method", "verdict"), registry=self.registry
        )
        self._gauge("deid_accepted_pictures", "Waiting or at work", lambda: pool.accepted)
        self._gauge("deid_pictures_together", "Made in batches so far", lambda: pool.together)
        self._gauge("deid_workers_lost", "Workers killed or dead so far", lambda: pool.lost)
        self._gauge("deid_ready", "1 when pictures can be made", lambda: pool.is_ready)

    def _gauge(self, name: str, said: str, value: object) -> None:
        gauge = Gauge(name, said, registry=self.registry)
        gauge.set_function(value)  # type: ignore[arg-type]

    def count(self, result: Result) -> None:
        """One safe picture."""
        self.pictures.labels(result.verdict).inc()
        for face in result.faces:  # fgsm-0.03 and swap+1 are one method each
            method = face.method.partition("+")[0].partition("-")[0]
            self.faces.labels(method, face.verdict).inc()

    def text(self) -> bytes:
        """In Prometheus' text format."""
        return generate_latest(self.registry)
