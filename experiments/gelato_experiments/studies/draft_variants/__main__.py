"""`python -m gelato_experiments.studies.draft_variants`."""

import tyro

from gelato_experiments.studies.draft_variants.study import DraftVariants

if __name__ == "__main__":
    tyro.cli(DraftVariants).run()
