"""Losses, their gradients and the products of methods as compiled code, for ``engine.compile``.

torch.compile follows a loss to a graph of tensor operations, and guards the graph against all in the program that it
depends on. First derivatives run through that graph. Its compiled form cannot be differentiated twice, nor in forward
mode; products are therefore functions of the graph that are compiled whole, derivatives included.
"""

from betty.backends.torch.compiling.whole import compile_program

__all__ = ["compile_program"]
