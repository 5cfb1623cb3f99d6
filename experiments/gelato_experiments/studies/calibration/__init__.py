"""The study `calibration`: what entropy says about acceptance."""

from gelato_experiments.studies.calibration import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="calibration",
    question="How true is what the draft's entropy says about acceptance, and how many tokens per second is it worth?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
