"""The study `losslessness`: the distribution of sampled text, and what would bend it."""

from gelato_experiments.studies.losslessness import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="losslessness",
    question="Does sampled text keep the target's law under every payload, controller and exit, and are mistakes seen?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
