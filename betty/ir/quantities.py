"""Numbers as people read them: three digits and a unit."""

from __future__ import annotations


def three_digits(number: float) -> str:
    """``0.27``, ``12.5``, ``1234``: never an exponent."""
    text = f"{number:.3g}"
    return f"{number:.0f}" if "e" in text else text


def amount(number: int | None) -> str:
    """``64``, ``12.5 k``, ``0.27 M``; ``?`` for ``None``."""
    if number is None:
        return "?"
    for least, size, unit in ((10**12, 10**12, "T"), (10**9, 10**9, "G"), (10**5, 10**6, "M"), (10**3, 10**3, "k")):
        if number >= least:
            return f"{three_digits(number / size)} {unit}"
    return str(number)


def flops_text(number: int) -> str:
    """``64 FLOP``, ``1.2 MFLOP``."""
    digits, _, unit = amount(number).partition(" ")
    return f"{digits} {unit}FLOP"


def bytes_text(number: int) -> str:
    """``512 B``, ``4.1 KB``, ``12 MB``, ``1.5 GB``; powers of 1,000."""
    for size, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "KB")):
        if number >= size:
            return f"{three_digits(number / size)} {unit}"
    return f"{number} B"


def time_text(seconds: float) -> str:
    """Milliseconds, whatever the size, so that a column can be compared at a glance."""
    return f"{three_digits(seconds * 1e3)} ms"


def plural(count: int, word: str) -> str:
    if count != 1:
        word = f"{word[:-1]}ies" if word.endswith("y") else f"{word}{'es' if word.endswith('ch') else 's'}"
    return f"{count:,} {word}"


def both(names: list[str]) -> str:
    """``a``, ``a and b``, ``a, b and c``."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)
