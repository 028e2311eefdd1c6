"""One optimisation problem as a class, with the hooks and members of the first Betty."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

from betty.configs import Config
from betty.ir.diagnostics import BettyError
from betty.ir.methods import Method
from betty.logging import LoggerBase
from betty.problems.batches import Loaders
from betty.problems.links import Runtime
from betty.utils import log_from_loss_dict

HOOKS = (
    "training_step",
    "forward",
    "get_batch",
    "configure_train_data_loader",
    "configure_module",
    "configure_optimizer",
    "configure_scheduler",
    "param_groups",
    "on_inner_loop_start",
    "grad_callback",
    "param_callback",
    "epoch_callback",
    "custom_optimizer_step",
    "parameters",
    "trainable_parameters",
    "meta_trainable_parameters",
)
"""Methods that a subclass may define; all but ``training_step`` are optional."""


class Problem:
    """One problem of a multilevel program: parameters, data, a loss and an optimiser.

    A subclass defines :meth:`training_step`; problems are handed to :class:`betty.Engine` with their dependencies.
    Inside its methods every other problem is an attribute under its name, and calling one calls its ``forward``.

    Args:
        name: Unique among the problems; the attribute under which the others reach this one.
        config: How it is trained and how its response is computed.
        module: Owns the parameters. Without one, ``configure_module`` makes it.
        optimizer: Kept as it is. Without one, ``configure_optimizer`` makes it, unless ``custom_optimizer_step`` is
            defined; a problem without either is never updated.
        scheduler: Kept as it is; stepped after every update. Without one, ``configure_scheduler`` may make it.
        train_data_loader: Any iterable of batches, or a tuple of such, which gives a tuple of batches.
        extra_config: Whatever the program wants at hand as ``self.cfg``.
        device: Where to run; the engine's by default.
    """

    def __init__(  # noqa: PLR0913 - the first Betty's own arguments, in their order
        self,
        name: str,
        config: Config | None = None,
        module: nn.Module | None = None,
        optimizer: Any = None,
        scheduler: Any = None,
        train_data_loader: Any = None,
        extra_config: Any = None,
        device: Any = None,
    ) -> None:
        if not str(name).isidentifier():
            raise BettyError(
                f"{name!r} cannot name a problem: expected an identifier, as others reach it as self.<name>"
            )
        self._name = name
        self._config = config if config is not None else Config()
        self._runtime: Runtime | None = None
        self._module, self._optimizer, self._scheduler = module, optimizer, scheduler
        self._train_data_loader = train_data_loader
        self._loaders: Loaders | None = None
        self._parents: list[Problem] = []
        self._children: list[Problem] = []
        self._paths: list[list[Problem]] | None = None
        self._leaf = False
        self._global_step: int | None = None
        self.cfg = extra_config
        self.device = device
        self.env: Any = None
        self.logger: LoggerBase | None = None
        self.scaler: Any = None
        self.cur_batch: Any = None

    # What a program defines

    def training_step(self, batch: Any) -> Tensor | Mapping[str, Any]:
        """The loss on a batch: a scalar, or a dict with ``loss`` and metrics. To be defined by the program."""
        raise BettyError(f"{type(self).__name__} (problem {self.name!r}) defines no training_step(self, batch)")

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What calling the problem does: a call of its module, unless the program defines it otherwise."""
        assert self.module is not None
        return self.module(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.forward(*args, **kwargs)

    def parameters(self) -> Iterable[Tensor]:
        """All parameters of the problem."""
        assert self.module is not None
        return list(self.module.parameters())

    def trainable_parameters(self) -> Iterable[Tensor]:
        """The parameters that are updated: those of the module that require a gradient."""
        # What stands in for a parameter in an evaluation beside the steps may not require one.
        found = self.parameters()
        return [one for one in found if one.requires_grad or not isinstance(one, nn.Parameter)]

    def meta_trainable_parameters(self) -> Iterable[Tensor]:
        """The parameters through which the problem answers to those above it."""
        return self.trainable_parameters()

    def get_batch(self) -> Any:
        """The next batch; a tuple of batches where there are several loaders."""
        count = len(self._data.loaders)
        batches = tuple(self.get_batch_single_loader(index) for index in range(count))
        return batches[0] if count == 1 else batches

    def get_batch_single_loader(self, idx: int) -> Any:
        """The next batch of one loader, on the problem's device."""
        batch = self._data.next(idx)
        return batch if self._runtime is None else self._runtime.placed(batch, self.name)

    # Parts, which may be replaced at any time

    @property
    def module(self) -> Any:
        return self._module

    @module.setter
    def module(self, module: nn.Module) -> None:
        self._module = module
        self._replaced("module")

    @property
    def optimizer(self) -> Any:
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: Any) -> None:
        self._optimizer = optimizer
        self._replaced("optimizer")

    @property
    def scheduler(self) -> Any:
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._replaced("scheduler")

    @property
    def train_data_loader(self) -> Any:
        return self._train_data_loader

    @train_data_loader.setter
    def train_data_loader(self, loader: Any) -> None:
        self._train_data_loader, self._loaders = loader, None
        self._replaced("train_data_loader")

    def set_module(self, module: nn.Module) -> None:
        """Train another module from now on."""
        self.module = module

    def set_optimizer(self, optimizer: Any) -> None:
        self.optimizer = optimizer

    def set_scheduler(self, scheduler: Any) -> None:
        self.scheduler = scheduler

    def set_train_data_loader(self, loader: Any) -> None:
        self.train_data_loader = loader

    def _replaced(self, part: str) -> None:
        if self._runtime is not None:
            self._runtime.replaced(self.name, part)

    @property
    def _data(self) -> Loaders:
        if self._loaders is None:
            given = self._train_data_loader
            if given is None:
                raise BettyError(
                    f"problem {self.name!r} has no data: give it a train_data_loader, or define "
                    "configure_train_data_loader or get_batch"
                )
            loaders = given if isinstance(given, tuple) else (given,)
            self._loaders = Loaders(self.name, loaders, self.epoch_callback_exec)
        return self._loaders

    @property
    def train_data_iterator(self) -> list[Any]:
        """The iterator of each loader that is in use; ``None`` for one that has not begun."""
        return self._data.iterators

    @property
    def epoch_counter(self) -> list[int]:
        """Epochs that each loader has come to the end of."""
        return self._data.epochs

    def epoch_callback_exec(self) -> None:
        if self.is_implemented("epoch_callback"):
            self.epoch_callback()  # type: ignore[attr-defined]

    # The graph

    @property
    def name(self) -> str:
        return self._name

    @property
    def config(self) -> Config:
        return self._config

    def to_method(self) -> Method | None:
        """How the problem answers to those above it; ``None`` leaves the choice to the compiler."""
        return self.config.to_method()

    @property
    def children(self) -> list[Problem]:
        """The problems directly below this one."""
        return self._children

    @property
    def parents(self) -> list[Problem]:
        """The problems directly above this one."""
        return self._parents

    @property
    def paths(self) -> list[list[Problem]]:
        """Ways on which this problem's parameters come back to its own loss, each from the problem to itself."""
        if self._paths is None:
            self._paths = [] if self._runtime is None else self._runtime.paths(self)
        return self._paths

    @property
    def leaf(self) -> bool:
        """Whether no problem is below this one."""
        return self._leaf

    @leaf.setter
    def leaf(self, leaf: bool) -> None:
        self._leaf = leaf

    def add_child(self, problem: Problem) -> None:
        """Put ``problem`` below this one in the order of events."""
        _add(self._children, problem, f"{problem.name!r} is below {self.name!r} already")

    def add_parent(self, problem: Problem) -> None:
        """Put ``problem`` above this one in the order of events."""
        _add(self._parents, problem, f"{problem.name!r} is above {self.name!r} already")

    def add_paths(self, paths: Iterable[list[Problem]]) -> None:
        self._paths = [*self.paths, *paths]

    def clear_dependencies(self) -> None:
        self._children, self._parents, self._paths = [], [], None

    # Progress

    @property
    def count(self) -> int:
        """Micro-batches so far."""
        return 0 if self._runtime is None else self._runtime.count(self.name)

    @property
    def ready(self) -> list[bool]:
        """For each problem below, whether it has completed its unroll since this one's last step."""
        return [False] * len(self._children) if self._runtime is None else self._runtime.ready(self.name)

    def check_ready(self) -> bool:
        """Whether every problem below has completed its unroll since this one's last step."""
        return all(self.ready)

    def gradient_accumulation_boundary(self) -> bool:
        """Whether the present micro-batch is the last one of an update."""
        return self.count % self.config.gradient_accumulation == 0

    def step(self, global_step: int | None = None) -> None:
        """One step of this problem, and then of the problems above it whose turn it is.

        Does nothing while a problem below has not completed its unroll.
        """
        if self._runtime is None:
            raise BettyError(f"problem {self.name!r} belongs to no engine yet: Engine(problems=[...]) makes it run")
        self._global_step = global_step
        self._runtime.step(self.name, global_step)

    def train(self) -> None:
        """Put the module into training mode."""
        if self.module is not None:
            self.module.train()

    def eval(self) -> None:
        """Put the module into evaluation mode."""
        if self.module is not None:
            self.module.eval()

    def log(self, stats: Mapping[str, Any], global_step: int | None = None) -> None:
        """Write metrics to the logger, under the problem's name."""
        if self.logger is None:
            return
        place = (
            f"[Local Step {self.count}]"
            if global_step is None
            else (f"[Global Step {global_step}] [Local Step {self.count}]")
        )
        self.logger.info(f'[Problem "{self.name}"] {place} {log_from_loss_dict(dict(stats))}')
        local = global_step is None or self.config.log_local_step
        self.logger.log(stats, tag=self.name, step=self.count if local else global_step)

    def is_rank_zero(self) -> bool:
        """Whether this is the first of the processes."""
        return self._runtime is None or self._runtime.rank == 0

    def is_implemented(self, fn_name: str) -> bool:
        """Whether the class has a method of this name."""
        return callable(getattr(self, fn_name, None))

    # State

    def state_dict(self) -> dict[str, Any]:
        """States of the module, the optimiser, the scheduler and the gradient scaler, as far as there are any."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take over what :meth:`state_dict` gave."""
        for name, part in self._parts().items():
            if name in state_dict:
                part.load_state_dict(state_dict[name])

    def _parts(self) -> dict[str, Any]:
        named = {"module": self.module, "optimizer": self.optimizer, "scheduler": self.scheduler, "scaler": self.scaler}
        return {name: part for name, part in named.items() if part is not None}

    def get_opt_param_group_for_param(self, param: Tensor) -> dict[str, Any] | None:
        """The group of the optimiser that holds a parameter."""
        groups = self.optimizer.param_groups
        return next((group for group in groups if any(one is param for one in group["params"])), None)

    def get_opt_state_for_param(self, param: Tensor) -> Any:
        """What the optimiser keeps for a parameter."""
        return self.optimizer.state[param]

    def zero_grad(self) -> None:
        """Drop the gradients of the trainable parameters."""
        for parameter in self.trainable_parameters():
            parameter.grad = None

    def training_step_exec(self, batch: Any) -> Any:
        """:meth:`training_step` in the precision of the problem."""
        if self._runtime is None:
            return self.training_step(batch)
        with self._runtime.autocast(self.name):
            return self.training_step(batch)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.name!r})"


def _add(problems: list[Problem], one: Problem, complaint: str) -> None:
    if any(known is one for known in problems):
        raise BettyError(complaint)
    problems.append(one)
