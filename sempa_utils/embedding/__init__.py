"""Sentence embeddings from a language model: one `Embedder`, and a file for each extraction method."""

from sempa_utils.embedding.embedder import METHODS, Embedder, similarity

__all__ = ["METHODS", "Embedder", "similarity"]
