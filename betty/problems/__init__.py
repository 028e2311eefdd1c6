"""Problems as classes: what a program subclasses, in the manner of the first Betty."""

from betty.problems.implicit_problem import ImplicitProblem
from betty.problems.iterative_problem import IterativeProblem
from betty.problems.problem import Problem

__all__ = ["ImplicitProblem", "IterativeProblem", "Problem"]
