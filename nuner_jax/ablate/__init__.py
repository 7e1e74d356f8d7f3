"""Ablations: points that differ in a few options, run through the stages, compared with intervals."""
