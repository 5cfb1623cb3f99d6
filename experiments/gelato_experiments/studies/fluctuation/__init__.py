"""The study `fluctuation`: methods tuned in a calm world, in others."""

from gelato_experiments.studies.fluctuation import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="fluctuation",
    question="Do methods that were tuned in a calm world keep the cap and their rate when the world changes?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
