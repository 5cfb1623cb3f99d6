"""The study `queue_stability`: what an energy queue promises on every path."""

from gelato_experiments.studies.queue_stability import claims, figure, settings, study
from gelato_experiments.study import Study

STUDY = Study(
    name="queue_stability",
    question="Does the energy queue keep its guarantees on every path, and where does the paper's form fall short?",
    quick=settings.QUICK,
    full=settings.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
