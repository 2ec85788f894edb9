"""From a picture's file to its pixels: channels, orientation and size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

GREY = ("1", "L", "LA")
"""Pillow's modes of grey pictures of 8 bits or fewer."""

_ORIENTATION = 0x0112
_TURNED = (5, 6, 7, 8)
"""Values of EXIF's orientation by which width and height change places."""


class UnreadablePictureError(ValueError):
    """A picture that cannot be decoded; its words are the reason."""


@dataclass(frozen=True)
class Header:
    """What a file says of its picture before that is decoded.

    Attributes
    ----------
    grey : bool
        Whether it has one channel.
    size : tuple of int
        Height and width, as it is looked at.
    """

    grey: bool
    size: tuple[int, int]


def read_header(file: Path) -> Header:
    """Return what a file says of its picture; pixels are not decoded.

    Raises
    ------
    UnreadablePictureError
        If it is no picture of 8 bits a channel.
    """
    try:
        with Image.open(file) as image:
            _check_mode(image)
            width, height = image.size
            turned = image.getexif().get(_ORIENTATION) in _TURNED
            return Header(image.mode in GREY, (width, height) if turned else (height, width))
    except UnreadablePictureError:
        raise
    except Exception as error:  # a damaged file makes a decoder raise anything
        raise UnreadablePictureError(_reason(error)) from error


def decode(file: Path, channels: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the pixels of a picture.

    It is turned as its EXIF data say. Where it has another shape than ``size``, what is beyond the
    middle of the longer side is cut off, so that nothing is distorted.

    Parameters
    ----------
    file : Path
        The file.
    channels : int
        1 for grey, 3 for colour; the other kind is converted.
    size : tuple of int
        Height and width.

    Returns
    -------
    ndarray
        ``(channels, height, width)`` uint8.

    Raises
    ------
    UnreadablePictureError
        If it cannot be decoded.
    """
    try:
        with Image.open(file) as opened:
            _check_mode(opened)
            image = ImageOps.exif_transpose(opened).convert("L" if channels == 1 else "RGB")
            if image.size != (size[1], size[0]):
                image = ImageOps.fit(image, (size[1], size[0]), Image.Resampling.BILINEAR)
            pixels = np.asarray(image, dtype=np.uint8)
    except UnreadablePictureError:
        raise
    except Exception as error:  # a damaged file makes a decoder raise anything
        raise UnreadablePictureError(_reason(error)) from error
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _check_mode(image: Any) -> None:
    if image.mode.startswith(("I", "F")):
        raise UnreadablePictureError(f"its mode is {image.mode}; pixels must have 8 bits")


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
