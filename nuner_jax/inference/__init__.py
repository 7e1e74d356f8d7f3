"""Entities in text: with a head fitted on a few examples, or zero-shot through the concept encoder."""
