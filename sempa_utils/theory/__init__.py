"""The theory as pure tensor functions, and the exercises on it."""
