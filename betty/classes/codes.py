"""What the code of a function names: globals and attributes that it reads or assigns, and whether it edits arrays."""

from __future__ import annotations

import dis
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType

GLOBAL_READS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
GLOBAL_WRITES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
ATTRIBUTE_READS = frozenset({"LOAD_ATTR", "LOAD_METHOD", "IMPORT_FROM"})
ATTRIBUTE_WRITES = frozenset({"STORE_ATTR", "DELETE_ATTR"})
ITEM_WRITES = frozenset({"STORE_SUBSCR", "DELETE_SUBSCR", "STORE_SLICE"})
EDITING = frozenset({"copyto", "fill", "itemset", "partition", "place", "put", "putmask", "resize", "shuffle", "sort"})
"""Functions and methods, NumPy's above all, that write to an array that they are given."""
EDITING_KEYWORDS = frozenset({"inplace", "out"})


@dataclass(frozen=True)
class Names:
    """What one piece of code, inner functions included, names.

    Args:
        reads: Globals that are looked up.
        writes: Globals that are assigned or deleted.
        looks: Attributes that are looked up, of anything.
        sets: Attributes that are assigned or deleted.
        imports: Modules that are imported.
        edits: Whether something may be written into a tensor or an array: an item is assigned, an operator such as
            ``+=`` is used, or a function whose name (``mul_``, ``copyto``) or keyword (``out=``) tells it.
    """

    reads: frozenset[str]
    writes: frozenset[str]
    looks: frozenset[str]
    sets: frozenset[str]
    imports: frozenset[str]
    edits: bool


@lru_cache(maxsize=4096)
def names_in(code: CodeType) -> Names:
    """The names in ``code``."""
    steps = [step for one in codes(code) for step in dis.get_instructions(one)]

    def named(kinds: frozenset[str]) -> frozenset[str]:
        return frozenset(str(step.argval) for step in steps if step.opname in kinds)

    reads, looks = named(GLOBAL_READS), named(ATTRIBUTE_READS)
    return Names(
        reads=reads,
        writes=named(GLOBAL_WRITES),
        looks=looks,
        sets=named(ATTRIBUTE_WRITES),
        imports=named(frozenset({"IMPORT_NAME"})),
        edits=any(_edits(name) for name in reads | looks) or any(map(_writes, steps)) or _keywords(code),
    )


def codes(code: CodeType) -> Iterator[CodeType]:
    """``code`` and that of all functions inside."""
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from codes(constant)


def _edits(name: str) -> bool:
    return name in EDITING or (name.endswith("_") and not name.startswith("__"))


def _writes(step: dis.Instruction) -> bool:
    return step.opname in ITEM_WRITES or (step.opname == "BINARY_OP" and step.argrepr.endswith("="))


def _keywords(code: CodeType) -> bool:
    """Whether a call has a keyword that asks for writing; keywords are tuples among the constants."""
    tuples = (constant for one in codes(code) for constant in one.co_consts if isinstance(constant, tuple))
    return any(name in EDITING_KEYWORDS for constant in tuples for name in constant if isinstance(name, str))
