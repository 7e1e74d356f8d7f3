"""Annotated text to packed, tokenised training rows in ArrayRecord shards."""
