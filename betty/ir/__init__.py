"""The compiler's middle: graph, passes and plan. Imports networkx and the standard library only."""
