"""Few-shot evaluation of encoders: sampling, heads, metrics, report."""
