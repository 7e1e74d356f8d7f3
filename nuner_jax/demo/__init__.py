"""The bundled demo: corpus with recorded LLM replies, two small tasks, an LLM server that replays. See DATA_CARD.md."""

from pathlib import Path

REPLIES = Path(__file__).parent / "data" / "replies.jsonl"
"""1,400 sentences with recorded replies, {"text", "reply"} a line; named `demo` wherever a corpus is named."""
