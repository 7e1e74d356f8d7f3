"""The concepts that a model knows: a map of their embeddings, and the nearest ones to a phrase."""
