"""What an energy queue promises on every path: the cap up to the queue itself, and a queue that stays small.

Beside the guarantees are two weaknesses of the form that is reported of the paper: joules a round are not watts,
and the best ratio in every round is not the best ratio of the sums.
"""

from gelato_experiments.inputs import read_recording
from gelato_experiments.studies.queue_stability.exact import gelato_rows, mutant_rows, ratio_rows
from gelato_experiments.studies.queue_stability.paths import delay_rows, path_rows
from gelato_experiments.studies.queue_stability.settings import Settings
from gelato_experiments.studies.shared import exact_world
from gelato_experiments.study import Progress, Row


def run(settings: Settings, progress: Progress) -> list[Row]:
    """Walk the paths, then the delays, then the exact world.

    Returns:
        Rows of `kind` path (T1), delay, bound (T2) and share.
    """
    recording = read_recording(settings.recording)
    progress("long paths", 0, 4)
    rows = path_rows(recording, settings)
    progress("joules a round against delay", 1, 4)
    rows += delay_rows(recording, settings)
    progress("bound of the queue", 2, 4)
    world = exact_world.build(
        settings.world(settings.rtts_ms[1]),
        states=settings.states,
        acceptance=settings.acceptance,
        max_draft_length=settings.max_draft_length,
        vocab_size=settings.vocab_size,
        positions=settings.positions,
        delays=tuple(rtt / settings.rtts_ms[1] for rtt in settings.rtts_ms),
    )
    bound, per_round = gelato_rows(world, settings)
    rows += bound + mutant_rows(world, settings)
    progress("ratio of sums", 3, 4)
    return rows + per_round + ratio_rows(world, settings)
