"""Programs as users of the first Betty write them, on small generated data."""
