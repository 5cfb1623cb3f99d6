"""What the study `frontier` compares, and how much it simulates."""

import dataclasses

from gelato_experiments.methods import METHODS, Share


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    """What is compared.

    Attributes:
        recording: of the pair.
        device: preset; draft costs are those of Qwen2.5-0.5B there.
        edge: preset.
        links: presets.
        caps_w: caps on mean power.
        methods: names of the registry.
        devices: simulated under each setting.
        rounds: of each device.
        warmup: rounds before them that do not count: queues settle.
        seed: of texts and channels.
        rate_bins: of the channel, for the oracles.
        estimate_bins: of the acceptance estimate, for oracle (i).
        entropy_classes: for oracle (ii).
        vocab_size: ids that bits are counted over.
    """

    recording: str = "short-greedy"
    device: str = "orin-nano-15w"
    edge: str = "rtx3090-7b"
    links: tuple[str, ...] = ("5mhz-500m-60ms", "1mhz-500m-140ms")
    caps_w: tuple[float, ...] = (0.3, 0.5, 0.75, 1.0, 1.5, 3.0)
    methods: tuple[str, ...] = tuple(METHODS)
    devices: int = 64
    rounds: int = 2000
    warmup: int = 1000
    seed: int = 0
    rate_bins: int = 6
    estimate_bins: int = 6
    entropy_classes: int = 8
    vocab_size: int = 151936

    @property
    def effort(self) -> Share:
        """How much is simulated of each setting."""
        return Share(devices=self.devices, rounds=self.rounds, warmup=self.warmup, seed=self.seed)


QUICK = Settings()
FULL = Settings(
    links=("5mhz-500m-20ms", "5mhz-500m-60ms", "5mhz-500m-140ms", "1mhz-500m-60ms", "20mhz-100m-20ms"),
    caps_w=(0.3, 0.45, 0.5, 0.6, 0.75, 1.0, 1.25, 1.5, 2.0, 3.0, 5.0),
    rounds=8000,
    warmup=3000,
)
