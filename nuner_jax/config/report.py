"""Options of the report command: which results, where to."""

from dataclasses import dataclass

from nuner_jax.lists import Strs


@dataclass(frozen=True)
class ReportConfig:
    """Tables and plots of one or several result directories: nuner_jax.report RESULTS ... [--out DIR]."""

    results: Strs = Strs()
    """Result directories of nuner_jax.evaluate, also without the flag; the first system is the baseline."""
    out: str = ""
    """Directory for the report; empty: the first result directory."""
