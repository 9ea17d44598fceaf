"""Sentences: where they come from, and the words that are put around them."""
