import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.graphs.block_design import Blocks


def summed(rounds, own, memory=1.0):
    """Reports of clients less the mean of the round, summed; every round has its own effect."""
    blocks, sums = Blocks(), {}
    for number, together in enumerate(rounds):
        sent = {client: own[client] + 10.0 * np.sin(number + np.arange(3)) for client in together}
        mean = np.mean(list(sent.values()), axis=0)
        for client in sorted(together):
            sums[client] = memory * sums.get(client, 0.0) + sent[client] - mean
            blocks.add(client, together, memory)
    return blocks, sums


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.sets(st.integers(0, 6), min_size=2), min_size=1, max_size=12),
    st.sampled_from([1.0, 0.9]),
)
def test_what_is_a_clients_own_is_found_whoever_it_met(rounds, memory):
    rounds = [*rounds, *({client, client + 1} for client in range(6))]  # all are compared
    own = np.random.default_rng(100).normal(size=(7, 3))
    blocks, sums = summed(rounds, own, memory)
    found = blocks.solve(sums, range(7))
    np.testing.assert_allclose(found, own - own.mean(axis=0), atol=1e-8)
    # Two rows are multiplied here and seven there: a CPU may add in another order for each.
    np.testing.assert_allclose(blocks.solve(sums, [5, 2]), found[[5, 2]], rtol=0, atol=1e-11)


def test_where_everybody_takes_part_it_is_the_sum_but_for_the_scale():
    own = np.random.default_rng(100).normal(size=(5, 3))
    blocks, sums = summed([range(5)] * 4, own)
    expected = np.stack([sums[client] for client in range(5)]) / 4
    np.testing.assert_allclose(blocks.solve(sums, range(5)), expected, atol=1e-12)


def test_sums_alone_are_biased_by_whom_a_client_met():
    own = np.random.default_rng(100).normal(size=(4, 3))
    _, sums = summed([{0, 1}, {2, 3}, {0, 1}, {1, 2}], own)
    assert np.abs(sums[0] / 2 - (own - own.mean(axis=0))[0]).max() > 0.1


def test_it_is_stored():
    own = np.random.default_rng(100).normal(size=(4, 3))
    first, sums = summed([{2, 3}, {0, 1, 3}], own)
    second = Blocks()
    second.load_state_arrays(first.state_arrays())
    assert second.met == first.met == [2, 3, 0, 1]
    for blocks in (first, second):
        blocks.add(2, [2, 0], 0.9)
    np.testing.assert_array_equal(first.solve(sums, [0, 2]), second.solve(sums, [0, 2]))
    with pytest.raises(KeyError):
        second.solve({}, [0])


def test_a_checkpoint_takes_node_ids():
    blocks, again = Blocks(), Blocks()
    ids = [3, 2**63 + 5]
    for client in ids:
        blocks.add(client, ids, 1.0)
    again.load_state_arrays(blocks.state_arrays())
    assert again.met == blocks.met == ids
    sums = {ids[0]: np.array([1.0, 0.0]), ids[1]: np.array([-1.0, 0.0])}
    assert np.array_equal(again.solve(sums, ids), blocks.solve(sums, ids))
