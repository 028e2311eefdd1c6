"""Facts about each problem from a trace on fake tensors: shapes and operations without any computation."""

from __future__ import annotations

import logging
from collections.abc import Container, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import FlopCounterMode

from betty.backends.torch import footprint
from betty.backends.torch.duals import dual_level, duals
from betty.backends.torch.objective import Objective
from betty.backends.torch.program import LiveProblem, Program
from betty.backends.torch.random import replaying
from betty.backends.torch.swap import Buffers, Places
from betty.backends.torch.tree import detach
from betty.ir.records import Facts

STATES = {
    "SGD": 0,
    "LBFGS": 0,
    "Adafactor": 0,  # Adafactor keeps rows and columns of matrices
    "Adam": 2,
    "AdamW": 2,
    "NAdam": 2,
    "RAdam": 2,
    "Adamax": 2,
    "SparseAdam": 2,
    "Adadelta": 2,
    "Rprop": 2,
}
"""Copies of the parameters that an optimiser keeps; others keep one, and SGD one with momentum."""


def _matrix_vector(matrix: torch.Size, vector: torch.Size, **_: Any) -> int:
    return 2 * matrix.numel()


def _added_matrix_vector(added: torch.Size, matrix: torch.Size, vector: torch.Size, **_: Any) -> int:
    return 2 * matrix.numel()


def _inner(left: torch.Size, right: torch.Size, **_: Any) -> int:
    return 2 * left.numel()


VECTOR_PRODUCTS = {
    torch.ops.aten.mv: _matrix_vector,
    torch.ops.aten.addmv: _added_matrix_vector,
    torch.ops.aten.dot: _inner,
}
"""Operations that torch's counter leaves out."""


def trace(
    program: Program, answering: Container[str] = (), solving: Container[str] = (), *, memory: bool = False
) -> dict[str, Facts]:
    """Facts by problem. What cannot be traced still has its parameters counted, and a note says why.

    The program is as before afterwards; a stream's next micro-batch is looked at and stays the next one.

    Args:
        program: The live problems.
        answering: Problems for which forward mode is tried too: those whose responses may use it.
        solving: Problems for which the graph of the gradient is measured too.
        memory: Whether the memory of derivatives is measured.
    """
    known: dict[Hashable, Facts] = {}
    found = {}
    for name, problem in program.problems.items():
        batch = problem.stream.peek() if problem.stream is not None else None
        key = (_likeness(problem, batch), name in answering, name in solving)
        if key not in known:
            known[key] = facts(program, problem, batch, forward=name in answering, graph=name in solving, memory=memory)
        found[name] = known[key]
    return found


def facts(
    program: Program,
    problem: LiveProblem,
    batch: Any,
    *,
    forward: bool = False,
    graph: bool = False,
    memory: bool = False,
) -> Facts:
    """Facts about one problem, its loss evaluated on fake tensors of the shapes of ``batch``.

    A loss that asks for values, with ``.item()`` for instance, is evaluated on copies of the real tensors instead.
    With ``forward`` it is tried whether the gradient can be differentiated in forward mode. With ``memory`` it is
    measured what derivatives hold; with ``graph`` that of the gradient with its graph, too.
    """
    try:
        try:
            # Constants that a loss closes over are real tensors; they may meet the fake ones.
            return _facts(program, problem, batch, (forward, graph, memory), FakeTensorMode(allow_non_fake_inputs=True))
        except DataDependentOutputException:
            return _facts(program, problem, batch, (forward, graph, memory), None)
    except Exception as error:  # any operation of a user's loss may have no fake kernel, or need real values
        first = str(error).strip().splitlines()[0] if str(error).strip() else ""
        return counted(problem, note=f"{type(error).__name__}: {first}"[:200])


Wanted = tuple[bool, bool, bool]
"""Whether forward mode is tried, whether the graph of the gradient is measured, and whether memory is at all."""


def _facts(program: Program, problem: LiveProblem, batch: Any, wanted: Wanted, mode: FakeTensorMode | None) -> Facts:
    with replaying(None, program.device), problem.objective.undone(), _quiet():
        return replace(counted(problem), **_measure(problem, batch, wanted, mode))


def counted(problem: LiveProblem, note: str = "") -> Facts:
    """What is known of a problem whose loss is not evaluated, and why it is not."""
    return Facts(
        parameters=sum(parameter.numel() for parameter in problem.parameters),
        parameter_bytes=_bytes(problem.parameters),
        state_bytes=_state_copies(problem) * _bytes(problem.parameters),
        note=note,
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Torch logs what fails on fake tensors; whoever catches the error reports it better."""
    logger = logging.getLogger("torch._subclasses.fake_tensor")
    before = logger.disabled
    logger.disabled = True
    try:
        yield
    finally:
        logger.disabled = before


def _likeness(problem: LiveProblem, batch: Any) -> Hashable:
    """Problems that are alike in this are traced once: the loss's code, and the make and shapes of what it reads."""
    loss = problem.objective.loss
    code = getattr(loss, "__code__", None)
    text = (code.co_code, code.co_consts, code.co_names, id(loss.__globals__)) if code else id(loss)
    if getattr(loss, "__closure__", None):
        text = id(loss)
    read = [(repr(module), _shapes(_tensors(module))) for module in problem.objective.modules.values()]
    own = (_shapes(dict(enumerate(problem.parameters))), _state_copies(problem))
    return text, str(read), str(own), str(tree_map(_shape, batch))


def _shapes(tensors: Mapping[Any, Tensor]) -> list[Any]:
    return [(name, _shape(tensor)) for name, tensor in tensors.items()]


def _shape(item: Any) -> Any:
    return (tuple(item.shape), item.dtype, item.requires_grad) if isinstance(item, Tensor) else item


def _measure(problem: LiveProblem, batch: Any, wanted: Wanted, mode: FakeTensorMode | None) -> dict[str, Any]:
    forward_mode, graph, memory = wanted
    objective = problem.objective
    places = [Places(module) for module in objective.modules.values()]
    fakes = [[_fake(mode, tensor) for tensor in place.tensors] for place in places]
    by = [tensor for tensors in fakes for tensor in tensors if tensor.requires_grad]
    fake_batch = tree_map(lambda item: _fake(mode, item) if isinstance(item, Tensor) else item, batch)
    saved = _Saved(by)
    with mode or nullcontext(), torch.enable_grad(), ExitStack() as stack:
        for place, tensors in zip(places, fakes, strict=True):
            stack.enter_context(place.holding(tensors))
        stack.enter_context(Buffers(objective.modules.values()).spared(lambda buffer: _fake(mode, buffer)))
        with _flop_counter() as counter:
            with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda tensor: tensor):
                loss = objective.held(fake_batch).loss
            forward = counter.get_total_flops()
            gradient = torch.autograd.grad(loss, by, _moving(loss), allow_unused=True, create_graph=True)
            backward = counter.get_total_flops() - forward
        fused = _twice(gradient, by)
        twice = fused or _twice_by_plain_kernels(objective, fake_batch, by)
        tangents = twice and (not forward_mode or _in_forward_mode(problem, fake_batch))
        held = (
            _footprint(problem, fake_batch, by, graph=graph and twice, tangents=forward_mode and tangents)
            if memory
            else {}
        )
    return {
        **held,
        "batch_bytes": _bytes(tuple(item for item in tree_leaves(fake_batch) if isinstance(item, Tensor))),
        "forward_flops": forward,
        "backward_flops": backward,
        "saved_bytes": saved.bytes,
        "twice": twice,
        "forward": tangents,
        "plain": twice and not fused,
    }


def _footprint(problem: LiveProblem, batch: Any, by: list[Tensor], *, graph: bool, tangents: bool) -> dict[str, int]:
    """Memory of the derivatives that a problem's steps and responses may take."""
    objective, own = problem.objective, Places(problem.module)
    found = {"gradient_bytes": footprint.first_order(objective, batch, by)}
    if not own.tensors:
        return found
    mine = {id(leaf) for leaf in own.tensors}
    others = [leaf for leaf in by if id(leaf) not in mine]
    if graph and mine & {id(leaf) for leaf in by}:
        kept, product = footprint.second_order(objective, batch, own.tensors, by)
        copies = footprint.update_copies(problem.optimizer)
        found |= {"graph_bytes": kept, "product_bytes": product}
        found["update_bytes"] = round(copies * _bytes(tuple(own.tensors)))
    if tangents:
        product, mixed = footprint.forward_mode(objective, batch, own.tensors, others, own)
        found |= {"tangent_bytes": product, "mixed_bytes": mixed}
    return found


def _flop_counter() -> FlopCounterMode:
    counter = FlopCounterMode(display=False, custom_mapping=VECTOR_PRODUCTS)
    # Counts by module are of no use here, and the tracker fails on a module that returns its own parameter.
    counter.mod_tracker = _Untracked()  # type: ignore[assignment]
    return counter


class _Untracked(AbstractContextManager[None]):
    """Takes the place of torch's tracker of modules: everything belongs to the whole."""

    parents: ClassVar[set[str]] = {"Global"}

    def __exit__(self, *error: object) -> None:
        del error


def _in_forward_mode(problem: LiveProblem, batch: Any) -> bool:
    """Whether the gradient of the loss has a tangent where the problem's own parameters have one."""
    objective, own = problem.objective, Places(problem.module)  # what it holds now are fake tensors
    if problem.name not in objective.modules:
        return True
    try:
        with dual_level(), objective.differentiable():
            ones = [torch.ones_like(tensor) for tensor in own.tensors]
            moving = tuple(leaf.requires_grad_() for leaf in duals(detach(own.tensors), ones))
            with own.holding(moving):
                torch.autograd.grad(objective.held(batch).loss, moving, allow_unused=True)
    except (NotImplementedError, RuntimeError):
        return False
    return True


def _twice(gradient: Sequence[Tensor | None], by: list[Tensor]) -> bool:
    """Whether the gradient's own graph can be run backward."""
    parts = [part for part in gradient if part is not None and part.requires_grad]
    if not parts:
        return True
    if _marked(parts):
        return False
    try:
        torch.autograd.grad(parts, by, [torch.ones_like(part) for part in parts], allow_unused=True)
    except RuntimeError as error:
        if "not implemented" in str(error) or "not differentiable" in str(error):
            return False
        raise
    return True


def _twice_by_plain_kernels(objective: Objective, batch: Any, by: list[Tensor]) -> bool:
    with objective.differentiable():
        loss = objective.held(batch).loss
        return _twice(torch.autograd.grad(loss, by, _moving(loss), allow_unused=True, create_graph=True), by)


def _moving(loss: Tensor) -> Tensor:
    """A one that counts as variable: only then does torch mark what it can differentiate once and not twice."""
    return torch.ones_like(loss).requires_grad_()


def _marked(gradient: Sequence[Tensor]) -> bool:
    """Whether the gradient's graph holds an operation that torch refuses to differentiate (``once_differentiable``).

    Backward passes to given tensors never come to it: they take what lies behind it for unused.
    """
    seen: set[Any] = set()
    front = [part.grad_fn for part in gradient]
    while front:
        node = front.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() in ("Error", "torch::autograd::Error", "DelayedError", "torch::autograd::DelayedError"):
            return True
        front.extend(after for after, _ in node.next_functions)
    return False


class _Saved:
    """Counts the bytes that the forward pass saves for the backward pass, each storage once, parameters left out."""

    def __init__(self, parameters: list[Tensor]) -> None:
        self._seen = {tensor.untyped_storage()._cdata for tensor in parameters}
        self.bytes = 0

    def pack(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._seen:
            self._seen.add(storage._cdata)
            self.bytes += storage.nbytes()
        return tensor


def _tensors(module: nn.Module) -> dict[str, Tensor]:
    return {**dict(module.named_parameters()), **dict(module.named_buffers())}


def _fake(mode: FakeTensorMode | None, tensor: Tensor) -> Tensor:
    """A tensor that stands for ``tensor``: without values, or a copy."""
    fake = mode.from_tensor(tensor.detach()) if mode is not None else tensor.detach().clone()
    return fake.requires_grad_(tensor.requires_grad) if tensor.requires_grad else fake


def _state_copies(problem: LiveProblem) -> int:
    optimizer = problem.optimizer
    if optimizer is None:
        return 0
    name = type(optimizer).__name__
    momentum = any(group.get("momentum") for group in optimizer.param_groups)
    return 1 if name == "SGD" and momentum else STATES.get(name, 1)


def _bytes(tensors: tuple[Tensor, ...]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
