"""The study `headline`: the paper's two conditions."""

from gelato_experiments.studies.headline import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="headline",
    question="What do methods gain under the paper's conditions, and which part of it is payload, tuning or control?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
