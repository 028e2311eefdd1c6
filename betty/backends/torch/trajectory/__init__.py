"""Trajectories: what is kept of a problem's last updates so that they can be differentiated, or made again.

:mod:`~betty.backends.torch.tape` keeps the graphs of updates. Here are the ways that need less memory: records from
which updates are computed again (:mod:`history`, :mod:`again`), and derivatives that are carried along
(:mod:`tangents`). The :mod:`recorder` keeps whichever of them the plan asks for.
"""
