"""Settings of class programs: defaults, checks with nearest values, and the methods that they stand for."""

from __future__ import annotations

import copy
import inspect
import pickle
import subprocess
import sys
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import pytest

from betty.configs import Config, ConfigError, EngineConfig
from betty.ir.diagnostics import BettyError
from betty.ir.methods import PRESETS, PRODUCTS, preset

NEW = {
    "name",
    "log_every",
    "checkpoint_every",
    "checkpoint_keep",
    "timeout",
    "memory",
    "on_nonfinite",
    "nonfinite_limit",
    "compile",
}


def wrong(call: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        call()
    return caught.value


def test_defaults_are_the_known_ones() -> None:
    assert vars(Config()) == {
        "type": "darts",
        "first_order": True,
        "retain_graph": False,
        "allow_unused": True,
        "unroll_steps": 1,
        "gradient_accumulation": 1,
        "activation_checkpointing": False,
        "gradient_clipping": 0.0,
        "precision": "fp32",
        "initial_dynamic_scale": 4096.0,
        "scale_factor": 2.0,
        "warmup_steps": 0,
        "log_step": -1,
        "log_local_step": False,
        "darts_alpha": 0.01,
        "darts_multitask": False,
        "sama_adam_alpha": 1.0,
        "sama_multitask": False,
        "neumann_iterations": 1,
        "neumann_alpha": 1.0,
        "cg_iterations": 1,
        "cg_alpha": 1.0,
        "fp16": False,
    }
    assert {key: value for key, value in vars(EngineConfig()).items() if key not in NEW} == {
        "train_iters": 50000,
        "valid_step": 500,
        "logger_type": "none",
        "roll_back": False,
        "strategy": "default",
        "backend": "nccl",
        "early_stopping": False,
        "early_stopping_metric": "loss",
        "early_stopping_mode": "min",
        "early_stopping_tolerance": 5,
    }


def test_they_are_plain_dataclasses() -> None:
    config = Config("cg", unroll_steps=3)
    assert (config.type, config.unroll_steps) == ("cg", 3)
    assert config == replace(Config(type="cg"), unroll_steps=3) != Config(type="cg")
    assert "Config(type='cg', first_order=True" in repr(config) and "unroll_steps=3" in repr(config)
    assert copy.deepcopy(config) == pickle.loads(pickle.dumps(config)) == config
    assert list(inspect.signature(Config).parameters) == [one.name for one in fields(Config)]


@pytest.mark.parametrize("kind", [Config, EngineConfig])
def test_every_field_is_explained(kind: type) -> None:
    assert kind.__doc__ is not None
    assert [one.name for one in fields(kind) if f"        {one.name}: " not in kind.__doc__] == []


def test_all_mistakes_are_reported_at_once_with_what_to_write() -> None:
    error = wrong(lambda: Config(type="neuman", unrol_steps=3, cg_iterations=0, precision="fp_16", log_step=4.0))  # type: ignore[call-arg, arg-type]
    assert isinstance(error, BettyError)
    hints = {item.field[-1]: item.hint for item in error.diagnostics}
    assert hints == {
        "type": "type='neumann'",
        "unrol_steps": "unroll_steps=...",
        "cg_iterations": "cg_iterations=1",
        "precision": "precision='fp16'",
        "log_step": "log_step=4",
    }
    assert str(error).endswith("5 errors")


def test_a_report_names_place_found_expected_and_try() -> None:
    error = wrong(lambda: EngineConfig(early_stopping_mode="mn"))
    where = error.diagnostics[0].where
    assert where.startswith(f"{__file__}:")
    assert str(error) == (
        "ConfigError: EngineConfig.early_stopping_mode: 'mn' is unknown\n"
        f"  where     {where}\n"
        "  expected  one of min, max\n"
        "  try       early_stopping_mode='min'"
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("unroll_steps", 0),
        ("unroll_steps", True),
        ("unroll_steps", 2.5),
        ("unroll_steps", "2"),
        ("gradient_accumulation", 0),
        ("gradient_clipping", -0.1),
        ("gradient_clipping", None),
        ("warmup_steps", -1),
        ("darts_alpha", 0.0),
        ("darts_alpha", float("nan")),
        ("darts_alpha", float("inf")),
        ("sama_adam_alpha", -1.0),
        ("neumann_alpha", 0),
        ("neumann_iterations", -1),
        ("cg_iterations", 0),
        ("cg_alpha", 0.0),
        ("scale_factor", 1.0),
        ("initial_dynamic_scale", 0.0),
        ("first_order", "yes"),
        ("first_order", 2),
        ("precision", 16),
        ("type", 3),
        ("type", "reverse"),
        ("type", {"name": "nystrom", "rnk": 3}),
        ("type", {"inverse": "cg", "product": "revers"}),
    ],
)
def test_values_of_a_problem_are_refused_at_construction_and_at_assignment(name: str, value: Any) -> None:
    built = wrong(lambda: Config(**{name: value}))
    config = Config()
    assigned = wrong(lambda: setattr(config, name, value))
    assert [one.field for one in built.diagnostics] == [one.field for one in assigned.diagnostics] == [("Config", name)]
    assert built.diagnostics[0].expected and config == Config()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("train_iters", -1),
        ("train_iters", 1e4),
        ("valid_step", 0),
        ("logger_type", "tensorbord"),
        ("logger_type", None),
        ("strategy", "ddp"),
        ("backend", "ncl"),
        ("early_stopping_tolerance", -1),
        ("early_stopping_metric", ""),
        ("name", "a/b"),
        ("name", "../up"),
        ("log_every", 0),
        ("checkpoint_every", -1),
        ("checkpoint_keep", 0),
        ("timeout", 0.0),
    ],
)
def test_values_of_the_engine_are_refused(name: str, value: Any) -> None:
    assert [one.field for one in wrong(lambda: EngineConfig(**{name: value})).diagnostics] == [("EngineConfig", name)]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("neumann_iterations", 0),
        ("gradient_clipping", 1),
        ("log_step", -5),
        ("unroll_steps", np.int64(4)),
        ("darts_alpha", np.float32(0.5)),
        ("retain_graph", 1),
        ("type", "auto"),
        ("precision", "fp64"),
    ],
)
def test_values_at_the_edge_are_taken_in_the_type_of_the_field(name: str, value: Any) -> None:
    found = getattr(Config(**{name: value}), name)
    assert found == value and type(found) is type(getattr(Config(), name))


def test_assigning_checks_the_one_value_and_a_slip_of_the_pen() -> None:
    config = Config()
    config.unroll_steps = 5
    assert config.unroll_steps == 5
    assert wrong(lambda: setattr(config, "unroll_step", 5)).diagnostics[0].hint == "unroll_steps=..."
    config.my_own_remark = "kept"
    assert vars(config)["my_own_remark"] == "kept"


def test_too_many_values_in_a_row_and_a_value_given_twice() -> None:
    assert "30 values in a row" in str(wrong(lambda: Config(*range(30))))
    assert "given twice" in str(wrong(lambda: Config("cg", type="darts")))  # type: ignore[misc]


def test_subclasses_check_too_and_may_take_arguments_of_their_own() -> None:
    @dataclass
    class Mine(Config):
        extra: int = 3

    class Own(Config):
        def __init__(self, steps: int) -> None:
            super().__init__(unroll_steps=steps)

    assert Mine(extra=4).extra == 4 and Own(7).unroll_steps == 7
    assert wrong(lambda: Mine(ekstra=4)).diagnostics[0].hint == "extra=..."  # type: ignore[call-arg]
    assert wrong(lambda: Own(0)).diagnostics[0].field == ("Own", "unroll_steps")


def test_fp16_is_deprecated_and_means_precision() -> None:
    with pytest.warns(DeprecationWarning, match="precision") as caught:
        assert Config(fp16=True).precision == "fp16"
    assert caught[0].filename == __file__
    config = Config()
    with pytest.warns(DeprecationWarning, match="fp16"):
        config.fp16 = True
    assert config.precision == "fp16"
    assert wrong(lambda: Config(fp16=True, precision="bf16")).diagnostics[0].hint == "precision='bf16'"


def test_methods_of_the_first_betty() -> None:
    assert Config(type="darts", darts_alpha=0.02).to_method() == preset("finite_difference", {"epsilon": 0.02})
    assert Config(type="sama", sama_adam_alpha=0.3).to_method() == preset("sama", {"epsilon": 0.3})
    neumann = Config(type="neumann", neumann_iterations=3, neumann_alpha=0.5).to_method()
    assert neumann == preset("neumann", {"iterations": 3, "alpha": 0.5})
    assert Config(type="cg", cg_iterations=4).to_method() == preset("cg", {"iterations": 4, "tolerance": 0.0})
    assert Config(type="cg", cg_alpha=0.1).to_method() == Config(type="cg").to_method()


def test_methods_by_any_other_name() -> None:
    for name in set(PRESETS) - {"cg", "neumann", "sama"}:
        assert Config(type=name).to_method() == preset(name)
    assert Config(type="auto").to_method() is None
    assert Config(type={"name": "nystrom", "rank": 3}).to_method() == preset("nystrom", {"rank": 3})
    whole = preset("minres", {"iterations": 2})
    assert Config(type=whole).to_method() is whole


@pytest.mark.parametrize(("name", "flag"), [("darts", "darts_multitask"), ("sama", "sama_multitask")])
def test_multitask_reaches_the_product_that_has_it(name: str, flag: str) -> None:
    method = Config(type=name, **{flag: True}).to_method()  # type: ignore[arg-type]
    assert method is not None and method.product is not None
    known = "multitask" in PRODUCTS["finite_difference"].options
    assert dict(method.product.options).get("multitask", "absent") == (True if known else "absent")


def test_settings_do_not_import_torch() -> None:
    code = "import sys, betty.configs; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
