"""Checkpoints to Hugging Face folders and ONNX, proven equal."""
