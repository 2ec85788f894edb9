"""Pictures of a Hugging Face data set as arrays."""

from typing import Any

import numpy as np

from pfl_flower.data.errors import DataError


def read_pictures(part: Any, column: str, where: str) -> np.ndarray:
    """Return a column of images as uint8 ``(N, C, H, W)``, with one channel if they are grey.

    Parameters
    ----------
    part : datasets.Dataset
        One client's rows.
    column : str
        The column of images.
    where : str
        Name of the data set and the client, for error messages.

    Raises
    ------
    DataError
        If an image is missing or damaged, has no pixels of 8 bits, or another size than others.
    """
    pixels = []
    try:
        for image in part[column]:
            if image is None or image.mode.startswith(("I", "F")):
                kind = "missing" if image is None else f"of mode {image.mode!r}"
                raise DataError(
                    f"{where}: an image of column {column!r} is {kind}; it must have pixels of 8 "
                    f"bits",
                    key=column,
                    value=None if image is None else image.mode,
                )
            grey = image.mode in ("1", "L", "LA")
            array = np.asarray(image.convert("L" if grey else "RGB"), dtype=np.uint8)
            pixels.append(array[None] if grey else array.transpose(2, 0, 1))
    except OSError as error:
        raise DataError(
            f"{where}: an image of column {column!r} is damaged: {error}",
            key=column,
            value=str(error),
        ) from error
    shapes = sorted({array.shape for array in pixels})
    if len(shapes) > 1:
        raise DataError(
            f"{where}: images of column {column!r} differ in (channels, height, width): "
            f"{', '.join(map(str, shapes[:5]))}; resize or convert them to one shape",
            key=column,
            value=shapes,
        )
    return np.stack(pixels) if pixels else np.empty((0, 1, 1, 1), dtype=np.uint8)
