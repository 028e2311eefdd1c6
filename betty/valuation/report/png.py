"""Small images as PNG files, and as addresses that hold them."""

from __future__ import annotations

import base64
import struct
import zlib

import torch
from torch import Tensor
from torch.nn import functional

LARGEST = 160
"""Pixels of the longer side; larger images are made smaller."""
COLOURS = {1: 0, 3: 2, 4: 6}
"""PNG's number for grey, colour, and colour with transparency, by channels."""
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def png(pixels: Tensor) -> bytes:
    """A PNG file (ISO 15948) of uint8 pixels ``[height, width, channels]`` with 1, 3 or 4 channels."""
    height, width, channels = pixels.shape
    rows = pixels.contiguous().cpu().view(height, width * channels)
    # Every row begins with the number of its filter: none.
    raw = torch.cat([torch.zeros(height, 1, dtype=torch.uint8), rows], 1)
    header = struct.pack(">IIBBBBB", width, height, 8, COLOURS[channels], 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(raw.flatten().tolist()), 9)), (b"IEND", b""))
    return SIGNATURE + b"".join(_chunk(kind, content) for kind, content in parts)


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def address(content: bytes) -> str:
    """A PNG file as the address of an image."""
    return f"data:image/png;base64,{base64.b64encode(content).decode()}"


def pixels(image: Tensor) -> Tensor:
    """An image ``[channels, height, width]`` of numbers as uint8 pixels ``[height, width, channels]``.

    uint8 is taken as it is, numbers between 0 and 1 as brightness, others from their least to their greatest.
    """
    if image.dtype == torch.uint8:
        found = image.float() / 255
    else:
        found = image.detach().float().nan_to_num(0.0, 0.0, 0.0)
        low, high = float(found.min()), float(found.max())
        if low < 0 or high > 1:
            found = (found - low) / max(high - low, 1e-12)
    longest = max(found.shape[1:])
    if longest > LARGEST:
        size = [max(1, round(side * LARGEST / longest)) for side in found.shape[1:]]
        found = functional.interpolate(found[None], size=size, mode="area")[0]
    return (found.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).cpu()
