import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from clients import Pull, Scope, Tether
from clients.tether import check_stable


def parameter(*values):
    return nn.Parameter(torch.tensor(values))


@given(st.floats(0, 10), st.lists(st.floats(-5, 5), min_size=3, max_size=3))
def test_the_gradient_is_that_of_the_value(strength, values):
    theta = {"w": parameter(*values)}
    tether = Tether({"w": torch.tensor([1.0, -2.0, 0.5])}, strength)
    tether.value(theta).backward()
    by_autograd = theta["w"].grad.clone()
    theta["w"].grad = None
    tether.add_gradient(theta)
    found = torch.zeros(3) if theta["w"].grad is None else theta["w"].grad
    torch.testing.assert_close(found, by_autograd)


def test_one_strength_per_parameter():
    theta = {"w": parameter(3.0, 3.0)}
    tether = Tether({"w": torch.ones(2)}, {"w": torch.tensor([0.0, 2.0])})
    assert tether.value(theta).item() == pytest.approx(0.5 * 2 * 4)
    theta["w"].grad = torch.ones(2)
    tether.add_gradient(theta)
    assert theta["w"].grad.tolist() == [1.0, 5.0]


@pytest.mark.parametrize("strength", [-1.0, math.nan, math.inf, {"w": torch.tensor([-1.0])}, {}])
def test_bad_strengths_are_refused(strength):
    with pytest.raises(ValueError, match="strength"):
        Tether({"w": torch.zeros(1)}, strength)


def test_frozen_parameters_feel_no_pull():
    theta = {"w": parameter(1.0).requires_grad_(False)}
    Tether({"w": torch.zeros(1)}, 1.0).add_gradient(theta)
    assert theta["w"].grad is None


def test_gradient_descent_on_a_quadratic_ends_at_the_closed_form():
    # f = h/2 (w - a)^2 with a pull mu to w0: argmin (h a + mu w0) / (h + mu)
    h, a, mu, start = 2.0, 3.0, 0.5, -1.0
    w = parameter(start)
    tether = Tether({"w": torch.tensor([start])}, mu)
    for _ in range(200):
        w.grad = h * (w.detach() - a)
        tether.add_gradient({"w": w})
        with torch.no_grad():
            w -= 0.1 * w.grad
    assert w.item() == pytest.approx((h * a + mu * start) / (h + mu), abs=1e-5)


def test_unstable_strengths_are_refused_with_the_largest_that_works():
    tether = Tether({"w": torch.zeros(1)}, 25.0)
    check_stable([tether], 0.05)
    with pytest.raises(ValueError, match="on 'w' diverge .* must be below 20"):
        check_stable([tether], 0.1)


def test_strengths_add_up_on_one_parameter_but_not_across():
    one, other = Tether({"w": torch.zeros(1)}, 15.0), Tether({"v": torch.zeros(1)}, 15.0)
    check_stable([one, other], 0.1)
    with pytest.raises(ValueError, match="strength 30"):
        check_stable([one, one], 0.1)


def test_a_pull_copies_its_centre_and_holds_its_scope_only():
    theta = {"w": parameter(1.0), "head": parameter(2.0)}
    scopes = {"w": Scope.SHARED, "head": Scope.PERSONAL}
    received = Pull(Scope.SHARED, "received", 0.1).tether(theta, scopes)
    assert received.centre.keys() == {"w"}
    with torch.no_grad():
        theta["w"] += 1
    assert received.centre["w"].item() == 1.0
    zero = Pull(Scope.PERSONAL, "zero", 0.1).tether(theta, scopes)
    assert zero.centre["head"].item() == 0.0
    assert Pull(Scope.GROUP, "zero", 0.1).tether(theta, scopes) is None
    assert Pull(Scope.SHARED, "zero", 0.0).tether(theta, scopes) is None
