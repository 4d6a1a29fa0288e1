"""Pictures as values, and as PNG for other programs."""

import base64
import struct
import zlib
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Image"]

SIGNATURE = b"\x89PNG\r\n\x1a\n"
COLOUR_TYPES = {1: 0, 3: 2, 4: 6}  # channels -> PNG's code
PREFIX = "data:image/png;base64,"


class Image(NamedTuple):
    """A picture of 8-bit channels: shape and bytes, so that it compares, hashes and pickles.

    Attributes:
        shape: (height, width, channels) with 1, 3 or 4 channels.
        data: the bytes, row by row.
    """

    shape: tuple[int, int, int]
    data: bytes

    @classmethod
    def of(cls, array: NDArray[np.uint8]) -> "Image":
        """Copies an array of shape [H, W] or [H, W, C].

        Raises:
            ValueError: the array is not uint8, or has another shape.
        """
        pixels = array[:, :, None] if array.ndim == 2 else array
        if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] not in COLOUR_TYPES:
            raise ValueError(
                f"a picture is an array {array.dtype}{list(array.shape)}; "
                "give uint8 of shape [H, W, C] with C = 1, 3 or 4"
            )
        height, width, channels = pixels.shape
        return cls((height, width, channels), pixels.tobytes())

    @property
    def array(self) -> NDArray[np.uint8]:
        """A new writable array [H, W, C]."""
        return np.frombuffer(self.data, np.uint8).reshape(self.shape).copy()


def to_data_url(image: Image) -> str:
    """Returns the picture as a PNG in a data URL."""
    height, width, channels = image.shape
    header = struct.pack(">IIBBBBB", width, height, 8, COLOUR_TYPES[channels], 0, 0, 0)
    stride = width * channels
    rows = (image.data[start : start + stride] for start in range(0, stride * height, stride))
    body = b"".join(b"\0" + row for row in rows)  # filter type 0 before each row
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(body)) + chunk(b"IEND", b"")
    return PREFIX + base64.b64encode(SIGNATURE + chunks).decode("ascii")


def from_data_url(url: str) -> Image:
    """Reads a PNG that `to_data_url` wrote.

    Raises:
        ValueError: the text is another kind of URL, or a PNG with row filters.
    """
    if not url.startswith(PREFIX):
        raise ValueError(f"a picture is {url[:40]!r}; give a data URL that starts with {PREFIX!r}")
    chunks = dict(read_chunks(base64.b64decode(url[len(PREFIX) :])))
    width, height, depth, colour = struct.unpack(">IIBB", chunks[b"IHDR"][:10])
    channels = {code: count for count, code in COLOUR_TYPES.items()}.get(colour, 0)
    stride = width * channels + 1
    body = zlib.decompress(chunks[b"IDAT"])
    starts = range(0, stride * height, stride)
    if depth != 8 or not channels or any(body[start] for start in starts):
        raise ValueError(
            "a picture is a PNG with row filters, palette or 16-bit channels; "
            "decode it with an image library and give Image.of(array)"
        )
    data = b"".join(body[start + 1 : start + stride] for start in starts)
    return Image((height, width, channels), data)


def chunk(kind: bytes, data: bytes) -> bytes:
    """Returns one PNG chunk: length, kind, data, checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def read_chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    """Splits a PNG into (kind, data) pairs; IDAT parts are joined."""
    found: list[tuple[bytes, bytes]] = []
    pixels = b""
    at = len(SIGNATURE)
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            pixels += body
        else:
            found.append((kind, body))
        at += length + 12
    return [*found, (b"IDAT", pixels)]
