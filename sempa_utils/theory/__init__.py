"""The theory as pure tensor functions."""
