"""The torch backend against closed forms, finite differences and torch's own optimisers."""
