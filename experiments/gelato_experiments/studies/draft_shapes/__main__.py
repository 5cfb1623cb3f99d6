"""`python -m gelato_experiments.studies.draft_shapes`."""

import tyro

from gelato_experiments.studies.draft_shapes.study import DraftShapes

if __name__ == "__main__":
    tyro.cli(DraftShapes).run()
