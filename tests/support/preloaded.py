"""What the programs of :mod:`tests.support.forks` find imported; nothing is computed here, and no thread started.

Beside betty these are modules that torch imports late, at the first trace of a program, and what the examples use.
"""

import sklearn.datasets  # noqa: F401
import torch._dynamo
import torch._subclasses.fake_tensor
import torch.fx.experimental.symbolic_shapes
import torch.utils.flop_counter  # noqa: F401

import betty.cli.check
import betty.cli.compile
import betty.cli.run
import betty.engine  # noqa: F401
