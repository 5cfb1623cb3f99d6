"""The study `workloads`: short questions against long documents."""

from gelato_experiments.studies.workloads import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="workloads",
    question="Which method needs no new settings when short questions give way to long documents?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
