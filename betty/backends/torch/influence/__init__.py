"""Influence functions: per-example gradients, where they are stored, and the curvature between them."""
