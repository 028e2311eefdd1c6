"""Amounts of memory as people write them: ``512 MiB``, ``4GB``, or a number of bytes."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, ByteSize, TypeAdapter, ValidationError, WithJsonSchema

from betty.spec.issues import Issue, refuse, shown

EXPECTED = "a number with a unit such as 512 MiB or 4 GB, or a whole number of bytes"
PATTERN = r"^\s*\d*\.?\d+\s*([kKmMgGtTpP]?[iI]?[bB])?\s*$"
_SIZE: TypeAdapter[ByteSize] = TypeAdapter(ByteSize)


def _bytes(value: Any) -> Any:
    if value is None:
        return None
    if isinstance(value, int | str) and not isinstance(value, bool):
        try:
            found = int(_SIZE.validate_python(value))
        except ValidationError:
            found = 0
        if 0 < found < 2**63:
            return found
    raise refuse(Issue(code="wrong-type", message=f"found {shown(value)}", expected=EXPECTED))


Bytes = Annotated[
    int | None,
    BeforeValidator(_bytes),
    WithJsonSchema(
        {"anyOf": [{"type": "string", "pattern": PATTERN}, {"type": "integer", "minimum": 1}, {"type": "null"}]}
    ),
]
"""Bytes; ``None`` where none are named."""
