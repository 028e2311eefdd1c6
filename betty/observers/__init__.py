"""Observers of a run: each watches the loop and writes or shows something; none changes it."""
