"""The bundled demo: corpus with recorded LLM replies, two small tasks, an LLM server that replays."""
