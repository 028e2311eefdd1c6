"""Specs: what a user declares, in YAML or as Python objects, and what is wrong with it. Imports no torch."""
