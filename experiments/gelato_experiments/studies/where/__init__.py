"""The study `where`: against a server that streams, where does drafting pay, and what of it is adaptive?"""

from gelato_experiments.studies.where import claims, figure, study
from gelato_experiments.study import Study

STUDY = Study(
    name="where",
    question="Against a server that streams: where does drafting on the device pay, and where does adapting it?",
    quick=study.QUICK,
    full=study.FULL,
    run=study.run,
    claims=claims.claims,
    draw=figure.draw,
)
