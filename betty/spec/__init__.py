"""Specs: what a user declares, in YAML or as Python objects, and what is wrong with it. Imports no torch."""

from betty.spec.dump import to_yaml
from betty.spec.fields import Target
from betty.spec.frontend import Program, compile_document, compile_source, resolve
from betty.spec.load import Document, load
from betty.spec.lowering import to_graph
from betty.spec.models import (
    CheckpointSpec,
    DataSpec,
    EarlyStoppingSpec,
    EdgeSpec,
    EngineSpec,
    LogSpec,
    OptimizerSpec,
    ParameterSpec,
    ProblemSpec,
    SchedulerSpec,
    Spec,
    ValidateSpec,
)
from betty.spec.resolve import Resolved, ResolvedProblem
from betty.spec.schema import json_schema
from betty.spec.signatures import LossSignature

__all__ = [
    "CheckpointSpec",
    "DataSpec",
    "Document",
    "EarlyStoppingSpec",
    "EdgeSpec",
    "EngineSpec",
    "LogSpec",
    "LossSignature",
    "OptimizerSpec",
    "ParameterSpec",
    "ProblemSpec",
    "Program",
    "Resolved",
    "ResolvedProblem",
    "SchedulerSpec",
    "Spec",
    "Target",
    "ValidateSpec",
    "compile_document",
    "compile_source",
    "json_schema",
    "load",
    "resolve",
    "to_graph",
    "to_yaml",
]
