"""Flower's named arrays: serialization, zero-copy views, weighted means, count sketches.

All functions are pure.
"""

import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from io import BytesIO
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord
from numpy.lib import format as npy
from numpy.typing import NDArray

from strategies.errors import ArgumentError

# 2**16 float32 values are 256 KiB: the running sum of a chunk stays in a core's own cache
# while the same chunk of every client streams past it. Smaller and larger ones were slower.
_CHUNK = 2**16

Spec = dict[str, tuple[tuple[int, ...], str]]
"""Name of an array -> (shape, dtype), e.g. ``{"head.bias": ((10,), "float32")}``."""


def view(array: Array) -> NDArray[Any]:
    """Return the content of a Flower ``Array`` as a read-only NumPy view, without a copy.

    ``Array.numpy()`` copies; a server that only reads needs no copy.

    Raises
    ------
    ArgumentError
        If the bytes are not a NumPy array of numbers, if they are longer or shorter than their
        header says, or if the header does not match the ``Array``'s dtype and shape. ``argument``
        is ``stype``, ``data``, ``dtype`` or ``shape``.
    """
    if array.stype != "numpy.ndarray":
        raise ArgumentError("stype", array.stype, "'numpy.ndarray'")
    header = _header(array.dtype, tuple(array.shape))
    if array.data.startswith(header):  # as NumPy and we write it; nothing to parse
        offset, fortran = len(header), False
    else:
        offset, fortran = _read_header(array)
    dtype, shape = np.dtype(array.dtype), tuple(array.shape)
    found, expected = len(array.data) - offset, dtype.itemsize * math.prod(shape)
    if found != expected:
        raise ArgumentError("data", found, f"{expected} bytes after the header")
    return np.ndarray(shape, dtype, array.data, offset, order="F" if fortran else "C")


@lru_cache(maxsize=4096)
def _header(dtype: str, shape: tuple[int, ...]) -> bytes:
    """Return the header that NumPy's format has for such an array in C order.

    Raises
    ------
    ArgumentError
        If ``dtype`` is not a dtype of numbers or booleans, or ``shape`` has a negative length.
    """
    wanted = "a dtype of numbers or booleans, which can be averaged"
    try:
        kind = np.dtype(dtype)
    except (TypeError, SyntaxError) as error:
        raise ArgumentError("dtype", dtype, wanted) from error
    if kind.kind not in "biufc" or str(kind) != dtype:
        raise ArgumentError("dtype", dtype, wanted)
    if any(length < 0 for length in shape):
        raise ArgumentError("shape", shape, "without negative lengths")
    stream = BytesIO()
    description = {"descr": npy.dtype_to_descr(kind), "fortran_order": False, "shape": shape}
    npy.write_array_header_1_0(stream, description)
    return stream.getvalue()


@lru_cache(maxsize=64)
def _name_of(dtype: np.dtype[Any]) -> str:
    """Return the name of a dtype, which NumPy puts together anew every time."""
    return str(dtype)


def _read_header(array: Array) -> tuple[int, bool]:
    """Return (where the content starts, whether it is in Fortran order) of an unusual header."""
    stream = BytesIO(array.data)
    try:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
    except Exception as error:  # bytes from the wire make NumPy raise almost anything
        start = bytes(array.data[:32])
        raise ArgumentError("data", start, f"an array in NumPy's format ({error})") from error
    for name, declared, found in (
        ("dtype", array.dtype, str(dtype)),
        ("shape", tuple(array.shape), shape),
    ):
        if declared != found:
            raise ArgumentError(name, declared, f"{found!r}, as in the header of the bytes")
    return stream.tell(), fortran


def encode(values: NDArray[Any]) -> Array:
    """Return ``values`` as a Flower ``Array`` (NumPy format), copying the content once.

    Raises
    ------
    ArgumentError
        If they are not numbers or booleans in this machine's byte order.
    """
    values = np.asarray(values, order="C")  # ascontiguousarray would make 0 dimensions 1
    dtype, shape = _name_of(values.dtype), tuple(values.shape)
    content = values.reshape(-1).view(np.uint8).data
    data = b"".join((_header(dtype, shape), content))
    return Array(dtype=dtype, shape=shape, stype="numpy.ndarray", data=data)


def spec_of(arrays: Mapping[str, Array]) -> Spec:
    """Return the names, shapes and dtypes that a record declares, without decoding it."""
    return {name: (tuple(array.shape), array.dtype) for name, array in arrays.items()}


def num_bytes(arrays: Mapping[str, Array]) -> int:
    """Return the number of payload bytes of a record of arrays."""
    return sum(len(array.data) for array in arrays.values())


def difference(expected: Spec, found: Spec) -> str:
    """Describe how ``found`` differs from ``expected``; return an empty string if it does not."""
    words = []
    if missing := sorted(expected.keys() - found.keys()):
        words.append(f"missing {missing}")
    if unexpected := sorted(found.keys() - expected.keys()):
        words.append(f"unexpected {unexpected}")
    for name in sorted(expected.keys() & found.keys()):
        if expected[name] != found[name]:
            (shape, dtype), (got_shape, got_dtype) = expected[name], found[name]
            words.append(f"{name!r} is {got_dtype} {got_shape} instead of {dtype} {shape}")
    return "; ".join(words)


def weighted_mean(arrays: Sequence[NDArray[Any]], weights: Sequence[float]) -> NDArray[Any]:
    """Return the weighted mean of arrays of one shape and dtype, in that dtype.

    The function averages floating-point arrays with ``weights`` normalized to sum to 1, and sums
    half precision in single precision. Where all arrays have the same value, that is the mean, bit
    for bit, whatever the weights: so what no client trains stays what it was. Integer and boolean
    arrays are counters and masks, which have no mean: it takes their elementwise maximum. So the
    ``num_batches_tracked`` of batch norm stays an integer.

    Parameters
    ----------
    arrays : sequence of ndarray
        At least one array; all have the same shape and dtype.
    weights : sequence of float
        One finite weight per array, none negative and one positive.

    Raises
    ------
    ArgumentError
        If no weight is positive.

    Notes
    -----
    FedAvg, McMahan et al. 2017, Algorithm 1: sum_i n_i w_i / sum_j n_j.
    """
    first = arrays[0]
    if not np.issubdtype(first.dtype, np.inexact):
        largest = first.copy()
        for values in arrays[1:]:
            np.maximum(largest, values, out=largest)
        return largest
    top = max(weights)  # first, so that not even absurd weights overflow
    if not top > 0:
        raise ArgumentError("weights", list(weights), "positive for one array at least")
    total = sum(weight / top for weight in weights)
    fractions = [weight / top / total for weight in weights]
    sum_dtype = np.promote_types(first.dtype, np.float32)
    flat = [array.reshape(-1) for array in arrays]
    mean = np.empty(flat[0].size, dtype=sum_dtype)
    term = np.empty(min(_CHUNK, mean.size), dtype=sum_dtype)
    for start in range(0, mean.size, _CHUNK):
        part = slice(start, start + _CHUNK)
        running, product = mean[part], term[: len(mean[part])]
        np.multiply(flat[0][part], fractions[0], out=running, dtype=sum_dtype)
        for values, fraction in zip(flat[1:], fractions[1:], strict=True):
            np.multiply(values[part], fraction, out=product, dtype=sum_dtype)
            np.add(running, product, out=running)
        _keep_equal(running, [values[part] for values in flat])
    mean = mean.astype(first.dtype, copy=False)
    if np.issubdtype(first.dtype, np.floating) and not is_finite(mean):
        # Rounding went beyond the largest float (of a mask, say); a mean lies between its terms.
        np.clip(mean, np.minimum.reduce(flat), np.maximum.reduce(flat), out=mean)
    return mean.reshape(first.shape)


def _keep_equal(mean: NDArray[Any], values: Sequence[NDArray[Any]]) -> None:
    """Put the common value where all are equal, in place: fractions of it add up to an ulp off.

    The comparison ends with the first array after which no entry is equal any more. Of trained
    arrays that is nearly always the second, so that it costs one more look at that.
    """
    first, *others = values
    equal = np.ones(len(first), dtype=bool)
    for each in others:
        equal &= first == each
        if not equal.any():
            return
    np.copyto(mean, first, where=equal)


def is_finite(values: NDArray[Any]) -> bool:
    """Return whether no entry is NaN or infinite (integers always are finite)."""
    if not np.issubdtype(values.dtype, np.inexact):
        return True
    return math.isfinite(sum_of_squares(values)) or bool(np.isfinite(values).all())


def sum_of_squares(values: NDArray[Any]) -> float:
    """Return the sum of the squared magnitudes of floats, in their precision, at least single.

    It is finite only if every value is. One dot product is the fastest way to read an array once.
    """
    flat = values.ravel(order="K").astype(np.promote_types(values.dtype, np.float32), copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        return float(np.vdot(flat, flat).real)


def to_record(arrays: Mapping[str, NDArray[Any]]) -> ArrayRecord:
    """Return named NumPy arrays as an ``ArrayRecord``."""
    record = ArrayRecord()
    for name, values in arrays.items():  # its constructor would make every Array anew
        record[name] = encode(values)
    return record


def as_part(part: str, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return arrays renamed from ``<name>`` to ``<part>/<name>``."""
    return {f"{part}/{name}": values for name, values in arrays.items()}


def part_of(arrays: Mapping[str, NDArray[Any]], part: str) -> dict[str, NDArray[Any]]:
    """Return the arrays named ``<part>/<name>``, renamed to ``<name>``; invert :func:`as_part`."""
    prefix = f"{part}/"
    return {n.removeprefix(prefix): a for n, a in arrays.items() if n.startswith(prefix)}


def as_numbered_parts(
    part: str, arrays: Mapping[int, Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """Return numbered groups of arrays, renamed to ``<part>-<number>/<name>``."""
    found: dict[str, NDArray[Any]] = {}
    for number, own in arrays.items():
        found |= as_part(f"{part}-{number}", own)
    return found


def numbered_parts(
    arrays: Mapping[str, NDArray[Any]], part: str
) -> dict[int, dict[str, NDArray[Any]]]:
    """Return number -> arrays; invert :func:`as_numbered_parts`."""
    prefix = f"{part}-"
    names = {name.partition("/")[0] for name in arrays if name.startswith(prefix)}
    return {int(name.removeprefix(prefix)): part_of(arrays, name) for name in sorted(names)}


def linear_coefficients(arrays: Mapping[str, Array]) -> NDArray[np.float64]:
    """Return the coefficients of a linear model, the intercept of each output after its weights.

    Parameters
    ----------
    arrays : mapping of str to Array
        The weight ``(outputs, features)`` and the bias ``(outputs,)`` of one linear layer.

    Returns
    -------
    ndarray
        ``(outputs, features + 1)`` float64.

    Raises
    ------
    ArgumentError
        If the arrays do not have these shapes.
    """
    shapes = [tuple(array.shape) for array in arrays.values()]
    if len(shapes) != 2 or len(shapes[0]) != 2 or shapes[1] != shapes[0][:1]:
        raise ArgumentError(
            "shapes of the shared arrays",
            shapes,
            "(outputs, features) and (outputs,), those of a linear model; set model='linear' and "
            "do not make any parameter personal",
        )
    weight, bias = (np.asarray(view(array), dtype=np.float64) for array in arrays.values())
    return np.column_stack([weight, bias])
