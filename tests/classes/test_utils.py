"""Small helpers that programs import, and the environment."""

from __future__ import annotations

from collections import UserDict, defaultdict, namedtuple
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from betty.envs import Env
from betty.ir.diagnostics import BettyError
from betty.utils import (
    convert_tensor,
    flatten_list,
    get_grad_norm,
    get_param_index,
    get_weight_norm,
    log_from_loss_dict,
    neg_with_none,
    replace_none_with_zero,
    to_vec,
)

Pair = namedtuple("Pair", ["x", "y"])


class Encoding(UserDict[str, Tensor]):
    """Moves itself, as a ``BatchEncoding`` does."""

    def to(self, device: torch.device) -> Encoding:
        self.data = {key: value.to(device) for key, value in self.data.items()}
        return self


def test_every_tensor_inside_moves_and_containers_keep_their_type() -> None:
    batch: Any = (
        Pair(torch.ones(2), [torch.ones(1), "text"]),
        defaultdict(Tensor, mask=torch.ones(2, dtype=torch.int64)),
    )
    moved = convert_tensor(batch, "meta")
    assert type(moved[0]) is Pair and type(moved[1]) is defaultdict and moved[0].y[1] == "text"
    assert {one.device.type for one in (moved[0].x, moved[0].y[0], moved[1]["mask"])} == {"meta"}
    assert type(convert_tensor(Encoding(a=torch.ones(1)), "meta")) is Encoding


def test_half_precision_is_for_floats_wherever_they_are() -> None:
    batch: Any = [Pair(torch.ones(2), (torch.ones(1),)), Encoding(a=torch.ones(1), ids=torch.ones(1).long()), 3]
    halved = convert_tensor(batch, fp16=True)
    assert halved[0].x.dtype == halved[0].y[0].dtype == halved[1]["a"].dtype == torch.float16
    assert halved[1]["ids"].dtype == torch.int64 and halved[2] == 3 and type(halved[1]) is Encoding
    assert batch[0].x.dtype == batch[1]["a"].dtype == torch.float32
    assert convert_tensor(batch) is batch


def test_a_line_of_losses() -> None:
    assert log_from_loss_dict({"loss": torch.tensor(0.5), "acc": 1.0}) == "loss: 0.5 || acc: 1.0"
    losses = {"a": [0.1234567891, torch.tensor(0.1)], "b": {"c": 3}, "d": torch.ones(2, 3), "e": "text"}
    assert log_from_loss_dict(losses) == "a_0: 0.123457 || a_1: 0.1 || b_c: 3 || d: tensor of shape (2, 3) || e: text"


def test_vectors_and_missing_gradients() -> None:
    tensors = [torch.tensor([[1.0, 2.0]]), torch.tensor(3.0)]
    assert to_vec(tensors).tolist() == [1, 2, 3] and to_vec(tensors, alpha=-2.0).tolist() == [-2, -4, -6]
    assert neg_with_none(None) is None
    negative = neg_with_none(tensors[1])
    assert negative is not None and negative.item() == -3
    first, second = replace_none_with_zero([None, tensors[1]], tensors)
    assert first.tolist() == [[0, 0]] and second is tensors[1]
    with pytest.raises(ValueError, match="argument 2 is longer"):
        replace_none_with_zero([None], tensors)


def test_norms_of_weights_and_gradients() -> None:
    module = nn.ParameterList([torch.tensor([3.0]), torch.tensor([[0.0, 4.0]]), torch.tensor([12.0])])
    assert get_weight_norm(module.parameters()) == pytest.approx(13.0)
    assert get_grad_norm(module.parameters()) == 0.0
    module[0].grad, module[1].grad = torch.tensor([-6.0]), torch.tensor([[8.0, 0.0]])
    assert get_grad_norm(module.parameters()) == pytest.approx(10.0)


def test_lists_become_flat_by_one_level() -> None:
    assert flatten_list([[1, 2], (3,), []]) == [1, 2, 3]
    assert flatten_list([1, 2]) == [1, 2] and flatten_list([]) == []
    assert flatten_list([[1, [2]]]) == [1, [2]]


def test_a_parameter_is_found_by_identity() -> None:
    params = [torch.ones(2), torch.ones(2)]
    assert [get_param_index(one, params) for one in params] == [0, 1]
    with pytest.raises(BettyError, match="not among"):
        get_param_index(torch.ones(2), params)


def test_an_environment_says_which_method_is_missing() -> None:
    class Tasks(Env):
        pass

    assert Tasks().reset() is None
    with pytest.raises(BettyError, match=r"Tasks does not define it: write `def step\(self"):
        Tasks().step(1, seed=2)


def test_an_environment_of_a_program() -> None:
    class Tasks(Env):
        def __init__(self) -> None:  # programs do not always call the base class's
            self.at = 0

        def step(self, by: int) -> int:
            self.at += by
            return self.at

        def reset(self) -> None:
            self.at = 0

    env = Tasks()
    assert [env.step(2), env.step(3)] == [2, 5]
    env.reset()
    assert env.at == 0
