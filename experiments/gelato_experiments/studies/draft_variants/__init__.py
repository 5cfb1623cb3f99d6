"""Drafts of several shapes, trained alike on a share of a corpus and put beside each other."""
