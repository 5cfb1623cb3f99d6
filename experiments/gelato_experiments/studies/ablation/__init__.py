"""The study `ablation`: where the gain comes from."""

from gelato_experiments.studies.ablation import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="ablation",
    question="Where does the gain come from: payload, outer loop, length exit or depth exit?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
