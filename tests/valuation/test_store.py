"""The store: what is written comes back, and what is damaged or does not belong is named."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from betty.backends.torch.errors import RunError
from betty.backends.torch.influence import scoring
from betty.backends.torch.influence.store import Manifest, Store
from betty.ir.diagnostics import BettyError
from betty.valuation.export import export

PARTS: Mapping[str, int] = {"second": 3, "first": 5}
MANIFEST = Manifest("aaaa-bbbb", {"name": "logra", "rank": 2}, PARTS, shard_rows=7)
TOLERANCE = {"fp64": 0.0, "fp32": 1e-6, "bf16": 5e-3, "int8": 1e-2}


def rows(count: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(count, 8, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def filled(folder: Path, manifest: Manifest = MANIFEST, count: int = 20) -> Store:
    store = Store.create(folder, manifest)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    with store.writer() as writer:
        for part in order.split(3):
            writer.append(part, rows(count)[part], part.float())
    store.refresh()
    return store


def back(store: Store) -> Tensor:
    found = torch.full((len(store), store.manifest.size), torch.nan, dtype=torch.float64)
    for block in store.blocks(rows=4):
        found[block.positions] = block.rows.double()
    return found


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_what_is_written_comes_back_in_the_order_of_ids(dtype: str, tmp_path: Path) -> None:
    store = filled(tmp_path, replace(MANIFEST, dtype=dtype))
    assert torch.equal(store.ids, torch.arange(20)) and torch.equal(store.losses, torch.arange(20.0))
    limit = TOLERANCE[dtype] * float(rows().abs().max())
    assert float((back(store) - rows()).abs().max()) <= limit
    files_ = sum(path.stat().st_size for path in tmp_path.rglob("*.shard"))
    assert store.bytes_on_disk == files_
    assert list(Store.open(tmp_path).manifest.dimensions) == list(PARTS)


@given(queries=st.integers(1, 4), count=st.integers(1, 30), k=st.integers(1, 8), scale=st.sampled_from([1.0, -0.5]))
def test_scores_are_one_product(queries: int, count: int, k: int, scale: float) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = filled(Path(folder), replace(MANIFEST, dtype="fp64"), count)
        asked, divisor = rows(queries, seed=2), torch.rand(count) + 0.5
        expected = (scale * asked @ rows(count).T).float()
        torch.testing.assert_close(scoring.score(store, asked, scale=scale), expected)
        relative = expected / divisor
        torch.testing.assert_close(scoring.score(store, asked, scale=scale, relative=divisor), relative)
        k = min(k, count)
        for largest in (True, False):
            values, places = scoring.top(store, asked, k, largest=largest, scale=scale, relative=divisor)
            torch.testing.assert_close(values, relative.topk(k, 1, largest=largest).values)
            torch.testing.assert_close(relative.gather(1, places), values)
        own = scoring.self_influence(store, lambda given: given @ torch.diag(torch.arange(1.0, 9.0).double()))
        torch.testing.assert_close(own, (rows(count).square() * torch.arange(1.0, 9.0)).sum(1).float())
        members = torch.arange(0, count, 2)
        torch.testing.assert_close(
            scoring.group(store, asked, members, scale=scale), expected[:, members].sum(1), rtol=1e-4, atol=1e-5
        )
        torch.testing.assert_close(scoring.norms(store), rows(count).norm(dim=1).float())


def test_several_parts_are_one_store_that_is_read_while_it_is_written(tmp_path: Path) -> None:
    store = Store.create(tmp_path, MANIFEST)
    first, second = store.writer(0), store.writer(1)
    for start in range(0, 20, 4):
        ids = torch.arange(start, start + 4)
        (first if start % 8 else second).append(ids, rows()[ids], torch.ones(4))
    first.close()
    seen = Store.open(tmp_path)
    assert set(seen.ids.tolist()) >= {4, 5, 6, 7, 12, 13, 14, 15}
    second.close()
    seen.refresh()
    torch.testing.assert_close(back(seen), rows(), rtol=1e-6, atol=1e-6)


def test_tokens_have_two_numbers(tmp_path: Path) -> None:
    store = Store.create(tmp_path, replace(MANIFEST, tokens=True))
    ids = torch.tensor([[2, 0], [0, 1], [0, 0]])
    with store.writer() as writer:
        writer.append(ids, rows(3), torch.zeros(3))
    store.refresh()
    assert store.ids.tolist() == [[0, 0], [0, 1], [2, 0]] and store.logged() == {(0, 0), (0, 1), (2, 0)}
    torch.testing.assert_close(back(store), rows(3)[[2, 1, 0]], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"fingerprint": "aaaa-cccc"}, "the model"),
        ({"method": {"name": "logra", "rank": 3}}, "method, rank: the store has 2, and 3"),
        ({"dtype": "bf16"}, "dtype: the store has 'fp32', and 'bf16'"),
        ({"dimensions": {"second": 4, "first": 5}}, "layers: second"),
        ({"tokens": True}, "tokens"),
    ],
    ids=["model", "method", "dtype", "layers", "tokens"],
)
def test_another_store_is_refused_with_what_differs(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    filled(tmp_path)
    with pytest.raises(BettyError, match=words):
        Store.create(tmp_path, replace(MANIFEST, **change))


def test_a_wrong_type_is_named_with_the_nearest() -> None:
    with pytest.raises(BettyError, match="did you mean 'bf16'"):
        replace(MANIFEST, dtype="bf61")


def test_damage_is_noticed(tmp_path: Path) -> None:
    store = filled(tmp_path)
    shard = sorted(tmp_path.rglob("*.shard"))[1]
    content = bytearray(shard.read_bytes())
    content[-3] ^= 1
    shard.write_bytes(content)
    with pytest.raises(RunError, match=rf"{shard.name}.*checksum"):
        scoring.score(Store.open(tmp_path), rows(1).float())
    with pytest.raises(RunError, match=shard.name):
        Store.open(tmp_path).verify()
    shard.write_bytes(content[:-5])
    with pytest.raises(RunError, match=rf"{shard.name}.*bytes"):
        Store.open(tmp_path)
    shard.unlink()
    with pytest.raises(RunError, match=rf"{shard.name}.*missing"):
        Store.open(tmp_path)
    assert len(store) == 20


def test_what_must_not_be_stored_is_refused(tmp_path: Path) -> None:
    store = filled(tmp_path)
    wrong = rows(2)
    wrong[1, 3] = torch.inf
    with store.writer() as writer:
        with pytest.raises(BettyError, match="ids given twice: 4"):
            writer.append(torch.tensor([30, 4]), rows(2), torch.zeros(2))
        with pytest.raises(BettyError, match="ids given twice: 31"):
            writer.append(torch.tensor([31, 31]), rows(2), torch.zeros(2))
        with pytest.raises(RunError, match="such as of 41"):
            writer.append(torch.tensor([40, 41]), wrong, torch.zeros(2))
        with pytest.raises(RunError, match=r"expected \[2, 8\]"):
            writer.append(torch.tensor([50, 51]), rows(2)[:, :5], torch.zeros(2))
    store.refresh()
    assert torch.equal(store.ids, torch.arange(20))


def test_a_full_disk_is_told_and_what_was_written_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    filled(tmp_path)

    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    writer = Store.open(tmp_path).writer()
    monkeypatch.setattr(os, "fsync", full)
    writer.append(torch.arange(20, 40), rows(), torch.zeros(20))
    with pytest.raises(RunError, match="No space left on device"):
        writer.close()
    monkeypatch.undo()
    assert len(Store.open(tmp_path)) == 20


def test_another_version_and_nothing_at_all_are_told(tmp_path: Path) -> None:
    with pytest.raises(BettyError, match="nothing has been logged"):
        Store.open(tmp_path)
    filled(tmp_path)
    text = (tmp_path / "manifest.json").read_text()
    (tmp_path / "manifest.json").write_text(text.replace('"format": 2', '"format": 9'))
    with pytest.raises(BettyError, match="format 9"):
        Store.open(tmp_path)
    (tmp_path / "manifest.json").write_text(text[:20])
    with pytest.raises(RunError, match="is damaged"):
        Store.open(tmp_path)


def test_arrays_are_exported(tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    found = np.load(export(store, tmp_path / "out" / "values.npz"))
    assert found["ids"].tolist() == list(range(20)) and found["losses"].tolist() == list(range(20))
    np.testing.assert_allclose(found["gradients"], rows().numpy(), rtol=1e-5)
    with pytest.raises(BettyError, match=r"expected \.npz"):
        export(store, tmp_path / "values.csv")


@pytest.mark.parametrize(("name", "package"), [("values.parquet", "pyarrow"), ("values", "datasets")])
def test_other_formats_need_their_packages(name: str, package: str, tmp_path: Path) -> None:
    store = filled(tmp_path / "store")
    try:
        __import__(package)
    except ImportError:
        with pytest.raises(BettyError, match=f"needs {package}: pip install"):
            export(store, tmp_path / name)
        return
    export(store, tmp_path / name)
    if package == "pyarrow":
        table = __import__("pyarrow.parquet").parquet.read_table(tmp_path / name)
        ids, gradients = table["id"].to_pylist(), table["gradient"].to_pylist()
    else:
        data = __import__("datasets").load_from_disk(str(tmp_path / name))
        ids, gradients = data["id"], data["gradient"]
    assert sorted(ids) == list(range(20))
    np.testing.assert_allclose(np.array(gradients), rows()[torch.tensor(list(ids))].numpy(), rtol=1e-5)
