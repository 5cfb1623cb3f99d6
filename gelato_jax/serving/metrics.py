"""What the server counts, for Prometheus; the names follow vLLM's, `gelato` in place of `vllm`."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from gelato_jax.serving.engine import Finished, Piece

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 25, 50, 100)


class Metrics:
    """Counters of one server."""

    def __init__(self) -> None:
        """All at zero."""
        self._registry = registry = CollectorRegistry()

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"gelato_{name}", what, labels, registry=registry)

        self._requests = counter("request_success", "Requests answered, by how the text ended", "finished_reason")
        self._refused = counter("request_refused", "Requests refused, by HTTP status", "status")
        self._left = counter("request_left", "Requests whose client left before the end")
        self._failed = counter("request_failed", "Requests that ended in a fault, as of an edge that is away")
        self._prompt = counter("prompt_tokens", "Tokens of prompts, chat template included")
        self._generated = counter("generation_tokens", "Tokens generated")
        self._rounds = counter("spec_decode_num_drafts", "Rounds of decoding")
        self._drafted = counter("spec_decode_num_draft_tokens", "Tokens drafted")
        self._accepted = counter("spec_decode_num_accepted_tokens", "Drafts accepted")
        self._by_position = counter(
            "spec_decode_num_accepted_tokens_per_pos", "Drafts accepted, by their place in the round", "position"
        )
        self._energy = counter("modelled_energy_joules", "Joules of the modelled device, rounds alone")

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"gelato_{name}", what, registry=registry)

        self._queue = gauge("energy_queue_joules", "Virtual energy queue behind the last round")
        self._running = gauge("num_requests_running", "Requests that are decoded")
        self._waiting = gauge("num_requests_waiting", "Requests that wait for their turn")

        def histogram(name: str, what: str) -> Histogram:
            return Histogram(f"gelato_{name}_seconds", what, registry=registry, buckets=_SECONDS)

        self._first_token = histogram("time_to_first_token", "From a request's turn to its first token")
        self._decode = histogram("request_decode_time", "From the first token to the last")

    def waiting(self, count: int) -> None:
        """So many requests wait."""
        self._waiting.set(count)

    def running(self, count: int) -> None:
        """So many requests are decoded."""
        self._running.set(count)

    def round(self, piece: Piece) -> None:
        """A round is done."""
        self._rounds.inc()
        self._drafted.inc(piece.drafted)
        self._accepted.inc(piece.accepted_tokens)
        for position in range(piece.accepted_tokens):
            self._by_position.labels(position).inc()
        self._energy.inc(piece.energy_j)
        self._queue.set(piece.queue_j)

    def finished(self, end: Finished) -> None:
        """A request is answered."""
        self._requests.labels(end.reason).inc()
        self._prompt.inc(end.prompt_tokens)
        self._generated.inc(end.new_tokens)
        self._first_token.observe(end.first_token_s)
        self._decode.observe(end.wall_s)

    def refused(self, status: int) -> None:
        """A request was refused."""
        self._refused.labels(status).inc()

    def left(self) -> None:
        """A client left."""
        self._left.inc()

    def failed(self) -> None:
        """A request ended in a fault."""
        self._failed.inc()

    def page(self) -> bytes:
        """All of it, as Prometheus reads it."""
        return generate_latest(self._registry)
