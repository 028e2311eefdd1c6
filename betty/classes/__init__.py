"""From problems as classes, and their dependencies, to the graph and the live program that a spec gives as well."""
