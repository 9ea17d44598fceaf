"""What one measures: similarity of sentences, the shape of the space, whether the model still speaks."""
