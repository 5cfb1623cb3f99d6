"""The study `frontier`: tokens per second against a cap on mean power."""

from gelato_experiments.studies.frontier import claims, figure, settings, study
from gelato_experiments.study import Study

STUDY = Study(
    name="frontier",
    question="What does each method reach under a cap on mean power, and what is the best there is?",
    quick=settings.QUICK,
    full=settings.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
