import numpy as np
import pytest
from flwr.app import Array
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from strategies.arrays import encode, is_finite, view, weighted_mean
from strategies.errors import ArgumentError
from tests.errors import refused
from tests.helpers import as_array

dtypes = st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.uint8, np.bool_])
shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5)


@given(hnp.arrays(dtypes, shapes))
def test_encode_and_view_agree_with_flowers_own_format(values):
    mine, theirs = encode(values), Array(values)
    assert (mine.dtype, mine.shape, mine.data) == (theirs.dtype, theirs.shape, theirs.data)
    np.testing.assert_array_equal(view(theirs), values)


def test_view_reads_fortran_order_and_does_not_copy():
    values = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    array = Array(values)
    np.testing.assert_array_equal(view(array), values)
    assert not view(array).flags.owndata


@pytest.mark.parametrize(
    ("array", "argument", "value", "right"),
    [
        (as_array(b"nonsense"), "data", b"nonsense", ""),
        (as_array(encode(np.zeros(2, np.float32)).data[:-1]), "data", 7, "8"),
        (as_array(encode(np.zeros(2, np.float32)).data + b"x"), "data", 9, "8"),
        (as_array(encode(np.zeros(3, np.float32)).data), "shape", (2,), "(3,)"),
        (as_array(encode(np.zeros(2)).data), "dtype", "float32", "'float64'"),
        (Array("float32", (2,), "pickle", b""), "stype", "pickle", "'numpy.ndarray'"),
    ],
)
def test_view_refuses_damaged_bytes(array, argument, value, right):
    with pytest.raises(ArgumentError) as raised:
        view(array)
    assert (raised.value.argument, raised.value.value) == (argument, value)
    assert raised.value.wanted.startswith(right)


def test_view_refuses_objects():
    header = encode(np.zeros(1)).data.replace(b"'<f8'", b"'|O' ")
    with pytest.raises(ArgumentError) as raised:
        view(as_array(header, "object", (1,)))
    assert (raised.value.argument, raised.value.value) == ("dtype", "object")


@pytest.mark.parametrize(
    ("dtype", "shape", "argument"),
    [
        *(("float33", (2,), "dtype"), ("f4,(", (2,), "dtype"), ("f4", (2,), "dtype")),
        ("float32", (-2,), "shape"),
    ],
)
def test_view_refuses_dtypes_and_shapes_that_numpy_does_not_write(dtype, shape, argument):
    with pytest.raises(ArgumentError) as raised:
        view(as_array(encode(np.zeros(2, np.float32)).data, dtype, shape))
    assert raised.value.argument == argument
    assert raised.value.value == {"dtype": dtype, "shape": shape}[argument]


@pytest.mark.parametrize("values", [np.array(["a"]), np.array([1], "M8[s]"), np.zeros(2, "i4,f4")])
def test_view_refuses_what_has_no_mean(values):
    with pytest.raises(ArgumentError) as raised:
        view(Array(values))
    assert (raised.value.argument, raised.value.value) == ("dtype", str(values.dtype))


@given(st.binary(max_size=200), st.integers(0, 150), st.booleans())
def test_no_bytes_from_the_wire_raise_anything_but_a_value_error(junk, place, insert):
    whole = encode(np.arange(6, dtype=np.float32).reshape(2, 3)).data
    bad = whole[:place] + junk + whole[place + (0 if insert else len(junk)) :]
    try:
        values = view(as_array(bad, "float32", (2, 3)))
    except ValueError:
        return
    assert values.shape == (2, 3)


weights = st.floats(1e-3, 1e3)


@given(
    st.lists(
        st.tuples(hnp.arrays(np.float32, (7,), elements=st.floats(-1e3, 1e3, width=32)), weights),
        min_size=1,
        max_size=6,
    )
)
def test_weighted_mean_is_the_closed_form_and_stays_in_range(pairs):
    arrays, given_weights = [a for a, _ in pairs], [w for _, w in pairs]
    mean = weighted_mean(arrays, given_weights)
    expected = np.average(np.stack(arrays).astype(np.float64), axis=0, weights=given_weights)
    np.testing.assert_allclose(mean, expected, rtol=1e-4, atol=1e-3)
    assert (mean <= np.max(arrays, axis=0) + 1e-3).all()
    assert (mean >= np.min(arrays, axis=0) - 1e-3).all()


FLOATS = {
    np.float16: st.floats(-60_000, 60_000, width=16),
    np.float32: st.floats(-(2.0**120), 2.0**120, width=32),
    np.float64: st.floats(-1e300, 1e300),
}


@st.composite
def averaged(draw):
    """Return arrays of one shape and dtype, some of whose entries are equal, and weights."""
    dtype = draw(st.sampled_from([*FLOATS]))
    count = draw(st.integers(1, 12))
    common = draw(hnp.arrays(dtype, (9,), elements=FLOATS[dtype]))
    changes = draw(hnp.arrays(dtype, (count, 9), elements=FLOATS[dtype]))
    moved = draw(hnp.arrays(bool, (count, 9)))
    given_weights = draw(st.lists(st.floats(1e-6, 1e6), min_size=count, max_size=count))
    return [*np.where(moved, changes, common)], given_weights


@given(averaged())
def test_the_mean_of_equal_values_is_the_value_and_a_mean_lies_between_its_terms(found):
    arrays, given_weights = found
    mean = weighted_mean(arrays, given_weights)
    lowest, highest = np.min(arrays, axis=0), np.max(arrays, axis=0)
    equal = lowest == highest
    assert mean.dtype == arrays[0].dtype
    assert mean[equal].tobytes() == arrays[0][equal].tobytes()
    # every product and sum rounds once
    info = np.finfo(np.float32 if mean.dtype == np.float16 else mean.dtype)
    slack = 2 * len(arrays) * info.eps * np.abs(arrays).max(axis=0).astype(np.float64)
    slack = slack + np.finfo(mean.dtype).smallest_subnormal * len(arrays)
    assert (mean <= highest + slack).all()
    assert (mean >= lowest - slack).all()


@given(
    hnp.arrays(
        st.sampled_from([np.float16, np.float32, np.float64, np.int64, np.bool_, np.complex64]),
        hnp.array_shapes(min_dims=0, max_dims=3, min_side=0),
    ),
    st.lists(st.floats(1e-300, 1e300), min_size=1, max_size=30),
)
def test_the_mean_of_equal_arrays_is_the_array_bit_for_bit(values, given_weights):
    values = np.asarray(np.nan_to_num(values, nan=-0.0))  # of 0 dimensions it makes a scalar
    mean = weighted_mean([values] * len(given_weights), given_weights)
    assert (mean.dtype, mean.shape) == (values.dtype, values.shape)
    assert mean.tobytes() == values.tobytes()


@pytest.mark.parametrize("clients", [2, 5, 10, 100])
def test_an_ordinary_layer_that_nobody_changed_stays_as_it_was(clients):
    """The issue's figure: of ten equal arrays 54 % of the entries were an ulp off."""
    layer = np.random.default_rng(0).normal(size=70_000).astype(np.float32)
    mean = weighted_mean([layer.copy() for _ in range(clients)], range(1, clients + 1))
    assert mean.tobytes() == layer.tobytes()


@given(st.permutations(range(5)))
def test_the_order_of_clients_does_not_matter(order):
    arrays = [np.random.default_rng(i).normal(size=50).astype(np.float32) for i in range(5)]
    given_weights = [1.0, 2.0, 3.0, 4.0, 5.0]
    mean = weighted_mean(arrays, given_weights)
    other = weighted_mean([arrays[i] for i in order], [given_weights[i] for i in order])
    np.testing.assert_allclose(mean, other, atol=1e-6)


def test_a_mean_in_which_nobody_counts_is_refused():
    with refused(ArgumentError, argument="weights", value=[0, 0.0]):
        weighted_mean([np.ones(2), np.zeros(2)], [0, 0.0])


def test_weighted_mean_over_more_than_one_chunk():
    draw = np.random.default_rng(0)
    arrays = [draw.normal(size=(70_001,)).astype(np.float32) for _ in range(3)]
    expected = (arrays[0] * 1 + arrays[1] * 2 + arrays[2] * 3) / 6
    np.testing.assert_allclose(weighted_mean(arrays, [1, 2, 3]), expected, atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int64, np.bool_])
def test_dtype_and_shape_stay(dtype):
    for shape in [(), (0,), (2, 3)]:
        mean = weighted_mean([np.ones(shape, dtype), np.zeros(shape, dtype)], [1, 3])
        assert mean.dtype == dtype
        assert mean.shape == shape


def test_the_mean_of_the_largest_float_stays_finite():
    """Rounding carries this mean beyond it: five clients' examples, a mask of ``finfo.min``."""
    mask = np.full(3, np.finfo(np.float32).min)
    mean = weighted_mean([mask] * 5, [157, 168, 233, 286, 39])
    assert mean.tolist() == mask.tolist()


def test_absurd_weights_do_not_overflow():
    mean = weighted_mean([np.zeros(2, np.float32), np.ones(2, np.float32)], [1e308, 1e308])
    assert mean.tolist() == [0.5, 0.5]


def test_integers_get_the_maximum():
    counters = [np.array(3, np.int64), np.array(7, np.int64)]
    assert weighted_mean(counters, [9, 1]) == 7


def test_half_precision_is_summed_in_single_precision():
    arrays = [np.full(4, 60_000, np.float16)] * 8
    assert (weighted_mean(arrays, [1] * 8) == np.float16(60_000)).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_is_finite_sees_every_bad_value(bad):
    values = np.zeros(100, np.float32)
    assert is_finite(values)
    values[37] = bad
    assert not is_finite(values)
    assert not is_finite(np.array([np.inf, -np.inf]))


def test_is_finite_is_not_fooled_by_a_sum_that_overflows():
    assert is_finite(np.full(10, 3e38, np.float32))
    assert is_finite(np.array([2**62], np.int64))
