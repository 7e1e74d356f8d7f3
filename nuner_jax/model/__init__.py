"""The text and concept encoders and the contrastive loss."""
