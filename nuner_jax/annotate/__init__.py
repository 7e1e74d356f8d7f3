"""Text to annotated text: an LLM labels every sentence with open concepts."""
