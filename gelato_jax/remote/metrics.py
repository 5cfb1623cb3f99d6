"""What an edge counts, for Prometheus; the names follow vLLM's, as those of `gelato serve` do."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from gelato_jax.addresses import check_address
from gelato_jax.errors import GelatoError
from gelato_jax.remote.sessions import Sessions


class _Collector:
    """Reads the counters of an edge's sessions when it is asked."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    def collect(self) -> Iterator[Metric]:
        """As Prometheus' registry calls it."""
        tally = self._sessions.tally

        def counter(name: str, what: str, value: float) -> Metric:
            return CounterMetricFamily(f"gelato_{name}", what, value=value)

        yield counter("prompt_tokens", "Tokens of texts that were read", tally.prompt_tokens)
        yield counter("generation_tokens", "Tokens verified or streamed", tally.tokens)
        yield counter("spec_decode_num_drafts", "Rounds answered", tally.rounds)
        yield counter("spec_decode_num_draft_tokens", "Drafts that came", tally.drafted)
        yield counter("spec_decode_num_accepted_tokens", "Drafts accepted", tally.accepted)
        by_position = CounterMetricFamily(
            "gelato_spec_decode_num_accepted_tokens_per_pos",
            "Drafts accepted, by their place in the round",
            labels=["position"],
        )
        for position, count in enumerate(tally.accepted_at):
            by_position.add_metric([str(position)], count)
        yield by_position
        yield counter("passes", "Passes of the target over windows of one or several sessions", tally.batches)
        yield counter("edge_seconds", "Of rounds, from a call's arrival to its answer", tally.edge_s)
        refused = CounterMetricFamily("gelato_request_refused", "Calls refused, by why", labels=["kind"])
        for kind, count in dict(tally.refused).items():
            refused.add_metric([kind], count)
        yield refused
        yield GaugeMetricFamily("gelato_num_requests_running", "Sessions held", value=len(self._sessions))
        waiting = self._sessions.waiting
        yield GaugeMetricFamily("gelato_num_requests_waiting", "Rounds and texts that wait for a pass", value=waiting)


def show(sessions: Sessions, address: str) -> int:
    """Serve the counters at `http://ADDRESS/metrics`, in a thread of its own; the port.

    Raises:
        GelatoError: the address cannot be had.
    """
    host, port = check_address(address, is_guarded=True, guard="")
    registry = CollectorRegistry()
    registry.register(_Collector(sessions))
    try:
        server, _ = start_http_server(port, host.strip("[]"), registry)
    except OSError as error:
        raise GelatoError(f"{address} cannot be listened on: {error.strerror}") from None
    return server.server_port
