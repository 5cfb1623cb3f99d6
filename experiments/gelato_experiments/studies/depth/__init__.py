"""The study `depth`: each token's depth against one depth for all."""

from gelato_experiments.studies.depth import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="depth",
    question="How many joules does it save to choose each token's depth, at equal tokens per second?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
