"""The study `real_loop`: the real loop against the simulator."""

from gelato_experiments.studies.real_loop import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="real_loop",
    question="Does the simulator tell what the real loop of the shipped pair does on the same prompts?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
