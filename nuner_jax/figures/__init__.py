"""Figures of the paper from run directories, beside its published numbers."""
