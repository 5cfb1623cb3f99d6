"""What the study `queue_stability` runs."""

import dataclasses

from gelato_experiments.studies.shared import exact_world
from gelato_jax import system


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is run.

    Attributes:
        recording: of the pair, for the paths and the delays.
        device: preset.
        edge: preset.
        link: preset, without its delay.
        rtts_ms: delays that joules a round meet; the middle one also serves everything else.
        vocab_size: ids that bits are counted over.
        caps_w: of the paths.
        weights: V of the paths, for each cap.
        budgets_j: joules a round of the paths of `gelato`.
        lengths: rounds after which paths are judged, ascending.
        devices: of every run, a multiple of 8.
        seeds: of the paths.
        cap_w: that joules a round are to match.
        delay_rounds: at each delay.
        budget_j: of the queue's bound, over the joules of any round without drafts.
        bound_weights: V of the queue's bound.
        ratio_caps_w: caps under which both forms are held against the linear program.
        ratio_weights: V of `gelato` there; the best one counts.
        price_j: V lambda of `ratio` there.
        acceptance: of the exact world.
        states: of its channel.
        max_draft_length: G there.
        exact_rounds: of each run in the exact world.
        positions: of its text.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    edge: str = "rtx3090-7b"
    link: str = "5mhz-500m"
    rtts_ms: tuple[int, int, int] = (20, 60, 140)
    vocab_size: int = 151936
    caps_w: tuple[float, ...] = (0.5, 1.0, 1.5)
    weights: tuple[float, ...] = (0.03, 0.3, 3.0)
    budgets_j: tuple[float, ...] = (0.1, 0.2)
    lengths: tuple[int, ...] = (1_000, 10_000, 100_000)
    devices: int = 8
    seeds: tuple[int, ...] = (0,)
    cap_w: float = 1.0
    delay_rounds: int = 5_000
    budget_j: float = 0.08
    bound_weights: tuple[float, ...] = (0.003, 0.01, 0.03, 0.1)
    ratio_caps_w: tuple[float, ...] = (0.5, 0.75, 1.0, 1.25)
    ratio_weights: tuple[float, ...] = (0.003, 0.01, 0.05)
    price_j: float = 3.0
    acceptance: float = 0.75
    states: int = 16
    max_draft_length: int = 12
    exact_rounds: int = 3_000
    positions: int = exact_world.TEXT_POSITIONS

    def world(self, rtt_ms: int) -> system.System:
        """Device, link and edge at a delay."""
        return system.preset(self.device, f"{self.link}-{rtt_ms}ms", self.edge)


QUICK = Settings()
FULL = Settings(lengths=(1_000, 10_000, 100_000, 1_000_000), delay_rounds=50_000, exact_rounds=12_000)
