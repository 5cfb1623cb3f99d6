"""The methods that studies compare, each in a file of its own and one line here."""

from gelato_experiments.methods import (
    adaedl,
    banditspec,
    confidence_roc,
    draft_verify,
    dsd,
    dssd,
    edgellm,
    flexspec,
    gelato,
    hf_schedule,
    ratio,
    ratio_priced,
    sled,
    specdec_entropy,
    static,
    svip,
    target_only,
    ucb_specstop,
)
from gelato_experiments.methods.base import Method, Rules
from gelato_experiments.methods.compare import Scenario, Share, compare

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        target_only.METHOD,
        static.METHOD,
        dsd.METHOD,
        dssd.METHOD,
        sled.METHOD,
        hf_schedule.METHOD,
        adaedl.METHOD,
        svip.METHOD,
        draft_verify.METHOD,
        specdec_entropy.METHOD,
        confidence_roc.METHOD,
        edgellm.METHOD,
        flexspec.METHOD,
        ucb_specstop.METHOD,
        banditspec.METHOD,
        gelato.METHOD,
        ratio.METHOD,
        ratio_priced.METHOD,
    )
}
"""Name -> method; a new one is one line here."""

__all__ = ["METHODS", "Method", "Rules", "Scenario", "Share", "compare"]
