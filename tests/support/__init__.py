"""Toys, reference answers and comparisons that the tests share."""
