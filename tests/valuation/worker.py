"""What each of several processes does: log its part, and score with all of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, TensorDataset

from betty.ir.diagnostics import BettyError
from betty.valuation import Valuation

METHODS: dict[str, dict[str, Any]] = {
    "kfac": {"method": "kfac"},
    "ekfac": {"method": "ekfac", "offload": True},
    "logra": {"method": "logra", "rank": 3, "init": "ekfac", "dtype": "bf16"},
    "fisher": {"method": "fisher", "fisher": "empirical"},
    "dense": {"method": "dense"},
}


def data(count: int, seed: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(seed)
    return TensorDataset(torch.randn(count, 5, generator=generator), torch.randint(0, 3, (count,), generator=generator))


SHARDED = ("kfac", "ekfac", "logra", "fisher")
"""Those that are also asked of a model whose parameters the processes share."""


def scores(folder: Path, name: str, *, share: bool = False) -> torch.Tensor:
    torch.manual_seed(0)
    parts = [nn.Linear(5, 6), nn.LayerNorm(6), nn.Tanh(), nn.Linear(6, 3)]
    model: nn.Module = nn.Sequential(*parts)
    if share:
        mesh = init_device_mesh("cpu", (dist.get_world_size(),))
        for part in (parts[0], parts[3], model):
            fully_shard(part, mesh=mesh)
    elif dist.is_initialized():
        model = DistributedDataParallel(model)
    valuation = Valuation(model, nn.CrossEntropyLoss(), store=folder / name, **METHODS[name])
    valuation.log(DataLoader(data(46, 0), batch_size=5))
    return valuation.score(data(7, 1))


def main() -> None:
    folder = Path(sys.argv[1])
    dist.init_process_group("gloo")
    found = {name: scores(folder / "several", name) for name in METHODS}
    found |= {f"{name}, sharded": scores(folder / "sharded", name, share=True) for name in SHARDED}
    try:
        scores(folder / "refused", "dense", share=True)
    except BettyError as error:
        found["refused"] = torch.tensor("FSDP" in str(error))
    torch.save(found, folder / f"scores.{dist.get_rank()}.pt")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
