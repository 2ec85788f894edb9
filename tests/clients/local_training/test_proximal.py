import math

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from clients import Optimization, ProximalRule, ProximalTerm, Scope
from clients.local_training.local_step import LocalState, local_step
from clients.local_training.proximal import anchors_of, combine, proximal_step
from strategies.errors import ArgumentError


def parameter(*values):
    return torch.tensor(values, dtype=torch.float64)


def sgd(rate=0.1, momentum=0.0):
    return Optimization(learning_rate=rate, momentum=momentum)


def descend(theta, proximal_terms, optimization, curvature, goal, steps):
    """Minimize curvature/2 (theta - goal)^2 plus the proximal terms."""

    def differentiate(model, criterion, parameters, buffers, inputs, targets):
        gradients = {name: curvature * (value - goal) for name, value in parameters.items()}
        return torch.zeros(()), gradients, {}

    state, anchors = LocalState(dict(theta), {}), anchors_of(proximal_terms, theta)
    for _ in range(steps):
        settings = {"optimization": optimization, "anchors": anchors}
        functions = {"model": None, "criterion": None, "differentiate": differentiate}
        state = local_step(state, None, None, **settings, **functions).state
    theta.update(state.parameters)


def double(*values):
    return torch.tensor(values, dtype=torch.float64)


def test_the_value_is_half_the_weighted_square():
    theta = {"w": parameter(3.0, 3.0)}
    term = ProximalTerm({"w": double(1.0, 1.0)}, {"w": double(0.0, 2.0)})
    assert term.value(theta).item() == pytest.approx(0.5 * 2 * 4)
    assert ProximalTerm({}, 1.0).value(theta).item() == 0.0


@pytest.mark.parametrize(
    "strength", [-1.0, math.nan, {"w": torch.tensor([-1.0])}, {"w": torch.tensor([math.nan])}, {}]
)
def test_bad_strengths_are_refused(strength):
    with pytest.raises(ArgumentError) as raised:
        ProximalTerm({"w": torch.zeros(1)}, strength)
    if isinstance(strength, dict):
        (argument, value) = (
            ("strength['w']", strength["w"].item()) if strength else ("strength", [])
        )
    else:
        argument, value = "strength", strength
    assert (raised.value.argument, repr(raised.value.value)) == (argument, repr(value))


@given(
    st.floats(0.0, 1e6),
    st.floats(0.01, 1.0),
    st.floats(-3, 3),
)
@example(5e-324, 0.5, 0.0)  # rate * strength underflows to zero
def test_the_step_solves_the_proximal_problem(strength, rate, start):
    # argmin c/2 (x - a)^2 + 1/(2 eta) (x - theta')^2, here with a = 1 and no data gradient
    anchors = anchors_of([ProximalTerm({"w": double(1.0)}, strength)], ["w"])
    theta, _ = proximal_step({"w": parameter(start)}, {}, anchors, rate)
    expected = (start + rate * strength * 1.0) / (1 + rate * strength)
    assert theta["w"].item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("strength", [0.0, 0.5, 30.0, 1e4])
def test_the_fixed_point_is_the_closed_form(momentum, strength):
    # f = h/2 (w - g)^2 with a term c to a: argmin (h g + c a) / (h + c); explicit steps would
    # diverge from c = 20 on
    theta = {"w": parameter(-1.0)}
    term = ProximalTerm({"w": double(-1.0)}, strength)
    descend(theta, [term], sgd(0.1, momentum), 2.0, 3.0, 2000)
    assert theta["w"].item() == pytest.approx((2 * 3 - strength) / (2 + strength), abs=1e-9)


def test_the_term_is_felt_in_full_from_the_first_steps_on():
    # With momentum, the trajectory is that of explicit steps when both are small: the pull enters
    # the buffer, so it is amplified as the data's gradient is.
    implicit, explicit = {"w": parameter(1.0)}, {"w": parameter(1.0)}
    descend(implicit, [ProximalTerm({"w": double(0.0)}, 2.0)], sgd(1e-4, 0.9), 1.0, 5.0, 500)
    descend(explicit, [], sgd(1e-4, 0.9), 3.0, 5.0 / 3.0, 500)
    assert implicit["w"].item() == pytest.approx(explicit["w"].item(), abs=1e-3)
    assert implicit["w"].item() > 1.1  # and it has moved


@given(st.floats(1e-3, 1e9), st.floats(1e-3, 10.0), st.floats(0.0, 0.99))
def test_the_term_alone_never_diverges(strength, rate, momentum):
    theta = {"w": parameter(1.0)}
    descend(
        theta,
        [ProximalTerm({"w": double(0.0)}, strength)],
        sgd(rate, momentum),
        0.0,
        0.0,
        50,
    )
    assert abs(theta["w"].item()) < 1.0


@pytest.mark.parametrize("optimization", [sgd(), Optimization("adam", 0.1)])
def test_infinity_means_exactly_the_anchor(optimization):
    theta = {"w": parameter(0.1, -7.3)}
    anchor = double(1 / 3, 1e-9)
    descend(theta, [ProximalTerm({"w": anchor}, math.inf)], optimization, 2.0, 3.0, 3)
    assert theta["w"].tolist() == anchor.tolist()


@pytest.mark.integration
@pytest.mark.parametrize("strength", [0.0, 1.0, 50.0])
def test_adam_has_the_same_fixed_point(strength):
    theta = {"w": parameter(-1.0)}
    adam = Optimization("adam", 0.01)
    descend(theta, [ProximalTerm({"w": double(-1.0)}, strength)], adam, 2.0, 3.0, 20000)
    assert theta["w"].item() == pytest.approx((2 * 3 - strength) / (2 + strength), abs=1e-5)


def test_a_strength_of_zero_is_bitwise_no_term():
    plain, held = {"w": parameter(0.3)}, {"w": parameter(0.3)}
    descend(plain, [], sgd(0.1, 0.9), 1.1, 0.7, 9)
    term = ProximalTerm({"w": double(5.0)}, 0.0)
    descend(held, [term, term], sgd(0.1, 0.9), 1.1, 0.7, 9)
    assert plain["w"].item() == held["w"].item()


def test_one_strength_per_parameter_and_free_where_it_is_zero():
    theta = {"w": parameter(-1.0, -1.0, -1.0)}
    strength = {"w": double(0.0, 2.0, math.inf)}
    descend(theta, [ProximalTerm({"w": double(-1.0, -1.0, -1.0)}, strength)], sgd(), 2.0, 3.0, 500)
    torch.testing.assert_close(theta["w"].detach(), double(3.0, 1.0, -1.0))


def test_several_terms_add_up():
    # (H + lambda F + mu) theta = H goal + lambda F old + mu group
    theta = {"w": parameter(0.0, 0.0)}
    fisher = ProximalTerm({"w": double(-1.0, -1.0)}, {"w": double(0.0, 3.0)})
    group = ProximalTerm({"w": double(4.0, 4.0)}, 0.5)
    descend(theta, [fisher, group], sgd(), 2.0, 3.0, 500)
    expected = double((2 * 3 + 0.5 * 4) / 2.5, (2 * 3 - 3 + 0.5 * 4) / 5.5)
    torch.testing.assert_close(theta["w"].detach(), expected)


def test_combining_infinite_and_finite_terms():
    strength, anchor = combine(
        [
            (math.inf, double(1.0, 1.0)),
            (double(2.0, math.inf), double(5.0, 5.0)),
            (0.0, double(9, 9)),
        ]
    )
    assert strength.tolist() == [math.inf, math.inf]
    assert anchor.tolist() == [1.0, 3.0]
    strength, anchor = combine([(0.0, double(1.0)), (double(0.0), double(2.0))])
    assert (strength.item(), anchor.item()) == (0.0, 0.0)


def test_only_trained_parameters_are_held():
    assert anchors_of([ProximalTerm({"other": double(0.0)}, 1.0)], ["w"]) == {}


def test_a_rule_copies_its_anchor_and_holds_its_scope_only():
    theta = {"w": parameter(1.0), "head": parameter(2.0)}
    scopes = {"w": Scope.SHARED, "head": Scope.PERSONAL}
    received = ProximalRule(Scope.SHARED, "received", 0.1).term(theta, scopes)
    assert received.anchor.keys() == {"w"}
    with torch.no_grad():
        theta["w"] += 1
    assert received.anchor["w"].item() == 1.0
    zero = ProximalRule(Scope.PERSONAL, "zero", 0.1).term(theta, scopes)
    assert zero.anchor["head"].item() == 0.0
    assert ProximalRule(Scope.GROUP, "zero", 0.1).term(theta, scopes) is None
    assert ProximalRule(Scope.SHARED, "zero", 0.0).term(theta, scopes) is None


@pytest.mark.parametrize("strength", [-0.1, math.nan, math.inf])
def test_bad_rules_are_refused(strength):
    with pytest.raises(ArgumentError) as raised:
        ProximalRule(Scope.SHARED, "received", strength)
    assert (raised.value.argument, repr(raised.value.value)) == ("strength", repr(strength))
