"""The study `penalty_sweep`: what the weight V of `ratio` buys."""

from gelato_experiments.studies.penalty_sweep import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="penalty_sweep",
    question="What do the gap to the optimum and the queue do as V grows, and does the theorem's bound hold?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
