"""The study `delay`: the best draft length against the link's delay."""

from gelato_experiments.studies.delay import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="delay",
    question="How does the best draft length grow with the link's delay, and what is left of it where energy is dear?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
