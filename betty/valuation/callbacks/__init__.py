"""Valuation at the end of a training by other libraries; each is imported with its own module, and optional."""
