import math

import numpy as np
import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.functional import cross_entropy

from clients import (
    Classification,
    ForeignStateError,
    Optimization,
    PersonalState,
    Regression,
    assign_scopes,
    in_memory_loader,
    joint,
    train,
)
from clients.local_training.fine_tuning import Choice
from clients.personalized_models.apfl import APFLClient, Mixture, mix
from clients.personalized_models.ditto import DittoClient
from clients.personalized_models.l2gd import L2GDClient, approach, coin_runs, largest_l2gd_strength
from clients.personalized_models.mr_mtl import MRMTLClient
from clients.personalized_models.pfedme import PFedMeClient
from clients.personalized_models.strength import strength_for
from strategies.errors import ArgumentError
from tests.errors import refused
from tests.helpers import TinyNet, examples, flat

CURVATURES = np.array([0.5, 2.0, 4.0])
OPTIMA = np.array([-1.0, 0.5, 3.0])


PARAMETERS = frozenset(name for name, _ in TinyNet().named_parameters())


def own(client, part="own"):
    """What a client keeps of its own model."""
    snapshot = client.state.load(client.spec)
    return snapshot.part(part)


class Quadratics:
    """Three clients whose losses are h/2 (v - a)^2: linear regressions on one example each."""

    def __init__(self, kind, steps=1, rate=0.1, momentum=0.0, **options):
        self.kind, self.options = kind, options
        self.schedule = joint(0, steps)
        self.optimization = Optimization(learning_rate=rate, momentum=momentum)
        self.records = [RecordDict() for _ in CURVATURES]

    def client(self, number):
        model = nn.Linear(1, 1, bias=False).double()
        nn.init.constant_(model.weight, 0.7)
        x = torch.tensor([[math.sqrt(CURVATURES[number] / 2)]], dtype=torch.float64)
        return self.kind(
            model,
            assign_scopes(model, "none"),
            in_memory_loader(x, x[:, 0] * OPTIMA[number], 1),
            schedule=self.schedule,
            optimization=self.optimization,
            task=Regression(),
            state=PersonalState(self.records[number]),
            partition_id=number,
            **self.options,
        )

    def run(self, rounds, per_round=3):
        """Play rounds; return the mean of what is sent, and the own models."""
        shared = [np.array([[0.7]])]
        draw = np.random.default_rng(0)
        for server_round in range(1, rounds + 1):
            config = {"server-round": server_round}
            chosen = draw.choice(len(CURVATURES), per_round, replace=False)
            sent = [self.client(n).fit(shared, config)[0][0] for n in sorted(chosen)]
            shared = [np.mean(sent, axis=0)]
        mine = [own(self.client(n))["weight"].item() for n in range(len(CURVATURES))]
        return shared[0].item(), np.array(mine)


def envelope_mean(strength):
    """The minimizer of the mean Moreau envelope: sum(h a / (h + l)) / sum(h / (h + l))."""
    weights = CURVATURES / (CURVATURES + strength)
    return float(weights @ OPTIMA / weights.sum())


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0, 100.0])
def test_ditto_ends_at_its_closed_form(strength):
    anchor, mine = Quadratics(DittoClient, rate=0.2, lambda_=strength).run(150)
    assert anchor == pytest.approx(CURVATURES @ OPTIMA / CURVATURES.sum(), abs=1e-8)
    expected = (CURVATURES * OPTIMA + strength * anchor) / (CURVATURES + strength)
    np.testing.assert_allclose(mine, expected, atol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("strength", [0.3, 2.0, 20.0])
@pytest.mark.parametrize("steps", [1, 4])
def test_mr_mtl_ends_at_its_closed_form_which_is_not_dittos(strength, steps):
    anchor, mine = Quadratics(MRMTLClient, steps, rate=0.2, lambda_=strength).run(250)
    assert anchor == pytest.approx(envelope_mean(strength), abs=1e-5)
    expected = (CURVATURES * OPTIMA + strength * anchor) / (CURVATURES + strength)
    np.testing.assert_allclose(mine, expected, atol=1e-5)
    assert abs(anchor - CURVATURES @ OPTIMA / CURVATURES.sum()) > 0.02


@pytest.mark.integration
def test_mr_mtls_anchor_is_the_mean_of_all_when_only_some_take_part():
    clients = Quadratics(MRMTLClient, 4, rate=0.2, lambda_=2.0, participation=2 / 3)
    anchor, mine = clients.run(400, per_round=2)
    assert anchor == pytest.approx(mine.mean(), abs=1e-9)
    assert anchor == pytest.approx(envelope_mean(2.0), abs=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("strength", [0.5, 3.0])
def test_pfedme_ends_at_the_minimizer_of_the_envelopes(strength):
    clients = Quadratics(PFedMeClient, lambda_=strength, inner_steps=25, outer_learning_rate=0.25)
    anchor, mine = clients.run(120)
    assert anchor == pytest.approx(envelope_mean(strength), abs=1e-5)
    expected = (CURVATURES * OPTIMA + strength * anchor) / (CURVATURES + strength)
    np.testing.assert_allclose(mine, expected, atol=1e-5)


@given(st.floats(0.01, 0.5), st.floats(0.01, 0.99), st.floats(0.0, 1.0))
def test_l2gd_expects_not_to_move_at_its_closed_form(rate, p, part):
    largest = largest_l2gd_strength(rate, p)
    strength = part * min(largest, 50.0)
    mean = envelope_mean(strength)
    theta = (CURVATURES * OPTIMA + strength * mean) / (CURVATURES + strength)
    local = -rate * CURVATURES * (theta - OPTIMA)
    averaged = torch.from_numpy(theta.copy())
    approach(averaged, torch.tensor(theta.mean(), dtype=torch.float64), strength / largest, 1)
    expected = (1 - p) * local + p * (averaged.numpy() - theta)
    assert theta.mean() == pytest.approx(mean)
    np.testing.assert_allclose(expected, 0.0, atol=1e-9)


def test_l2gd_takes_the_steps_that_its_coins_say():
    _, steps = coin_runs(0, 1, 0.3)
    _, again = coin_runs(0, 1, 0.3)
    assert steps == again  # all clients share the coins
    runs = np.array([coin_runs(0, r, 0.25) for r in range(4000)])
    assert runs.min() == 1
    assert runs[:, 1].mean() == pytest.approx(4.0, rel=0.05)
    assert runs[:, 0].mean() == pytest.approx(4 / 3, rel=0.05)
    # momentum would upset the balance with averaging, so there is none
    clients = Quadratics(L2GDClient, momentum=0.9, lambda_=0.0, averaging_probability=0.3)
    client = clients.client(1)
    client.fit([np.array([[0.7]])], {"server-round": 1})
    theta = 0.7
    for _ in range(steps):
        theta -= 0.1 * CURVATURES[1] * (theta - OPTIMA[1])
    assert own(client)["weight"].item() == pytest.approx(theta, abs=1e-12)


def test_averaging_leaves_the_mean_of_all_where_it_is():
    models = [torch.tensor([1.0, 4.0]), torch.tensor([3.0, -2.0])]
    mean = torch.tensor([2.0, 1.0])
    for model in models:
        approach(model, mean, 0.3, 4)
    torch.testing.assert_close(torch.stack(models).mean(0), mean)
    assert models[0].tolist() == pytest.approx([2 - 0.7**4, 1 + 3 * 0.7**4])


def test_apfl_ends_at_its_closed_form():
    anchor, mine = Quadratics(APFLClient, mixing=0.6).run(250)
    assert anchor == pytest.approx(CURVATURES @ OPTIMA / CURVATURES.sum(), abs=1e-6)
    # v belongs to the w of the last local step, half a step away from the mean that is sent
    local = anchor - 0.1 * CURVATURES * (anchor - OPTIMA)
    mixture = 0.6 * mine + 0.4 * anchor
    assert (np.abs(mixture - OPTIMA) <= 0.41 * np.abs(local - anchor) + 1e-5).all()


# ---------------------------------------------------------------------- networks


def make(kind, records=None, count=20, model=None, seed=0, validation=12, **options):
    model = model or TinyNet()
    loader = in_memory_loader(*examples(count, seed=seed), 8, shuffle=True)
    held_out = in_memory_loader(*examples(validation, seed=98), 12)
    test = in_memory_loader(*examples(12, seed=99), 12)
    state = PersonalState(records if records is not None else RecordDict())
    return kind(model, assign_scopes(model, "none"), loader, held_out, test, state=state, **options)


def play(client, rounds, start=None):
    """Let one client train on what it sends itself; return what it sent last."""
    arrays = start or client.get_parameters({})
    for server_round in range(1, rounds + 1):
        arrays, _, _ = client.fit(arrays, {"server-round": server_round})
    return arrays


ALL = [
    (DittoClient, {"lambda_": 0.3}),
    (MRMTLClient, {"lambda_": 0.3}),
    (PFedMeClient, {"lambda_": 15.0}),
    (L2GDClient, {"lambda_": 0.3}),
    (APFLClient, {}),
]


@pytest.mark.parametrize(("kind", "options"), ALL)
def test_a_single_client_trains_and_its_own_model_comes_back(kind, options):
    records = RecordDict()
    client = make(kind, records, **options)
    arrays = play(client, 3)
    assert np.isfinite(flat(arrays)).all()
    loss = client.evaluate(arrays, {"server-round": 3})[0]
    restarted = make(kind, records, model=TinyNet(seed=5), **options)
    assert restarted.evaluate(arrays, {"server-round": 3})[0] == loss


@pytest.mark.parametrize("kind", [DittoClient, PFedMeClient, APFLClient])
def test_own_models_stay_on_the_device(kind):
    options = {} if kind is APFLClient else {"lambda_": 0.5}
    client = make(kind, **options)
    sent = play(client, 2)
    mine = own(client)
    for name, values in zip(client.shared_names, sent, strict=True):
        # a bias before batch norm has no gradient, so it stays where all start
        if mine[name].is_floating_point() and name != "body.bias":
            assert not np.array_equal(mine[name].numpy(), values), name


def test_ditto_at_zero_is_training_alone_and_sends_what_fedavg_sends():
    client = make(DittoClient, lambda_=0.0)
    start = client.get_parameters({})
    sent = play(client, 1)
    alone = TinyNet()
    with client.random(1, "train"):
        train(alone, client.train_loader, joint(1), client.scopes)
    for name, values in zip(client.shared_names, sent, strict=True):
        assert np.array_equal(own(client)[name].numpy(), alone.state_dict()[name].numpy())
        assert np.array_equal(values, alone.state_dict()[name].numpy())
    client.fit(start, {"server-round": 2})  # whatever comes, the own model goes its way
    with client.random(2, "train"):
        train(alone, client.train_loader, joint(1), client.scopes)
    assert torch.equal(own(client)["head.weight"], alone.head.weight)


@pytest.mark.parametrize("kind", [DittoClient, MRMTLClient, PFedMeClient, L2GDClient])
def test_at_infinity_the_own_model_is_the_shared_one(kind):
    client = make(kind, lambda_=math.inf)
    play(client, 2)
    # and a resumed run finds that the client was there
    asked = {"properties": "personal-round", "server-round": 3}
    assert client.get_properties(asked) == {"personal-round": 2}
    received = [np.asarray(values + 1) for values in client.get_parameters({})]
    client.evaluate(received, {"server-round": 2})
    assert np.array_equal(flat(client.get_parameters({})), flat(received))


def test_at_infinity_a_model_of_before_is_forgotten():
    records = RecordDict()
    play(make(DittoClient, records, lambda_=0.3), 2)
    client = make(DittoClient, records, lambda_=math.inf)
    received = client.get_parameters({})
    client.evaluate(received, {"server-round": 3})
    assert np.array_equal(flat(client.get_parameters({})), flat(received))


def test_a_choice_takes_the_best_and_of_equals_the_first():
    validation = in_memory_loader(*examples(20, seed=98), 8)
    trained = TinyNet()
    train(trained, validation, joint(30), assign_scopes(trained, "none"))
    choice = Choice(validation, Classification())
    assert choice.add(TinyNet())
    assert choice.add(trained)
    assert not choice.add(trained)
    assert not choice.add(TinyNet())
    assert choice.chosen == 1
    assert choice.validation.scores["accuracy"] > 0.8
    empty = Choice(in_memory_loader(*examples(0), 8), Classification())
    assert [empty.add(TinyNet()) for _ in range(3)] == [True, True, True]  # then the last
    assert math.isnan(empty.validation.scores["accuracy"])


def test_a_large_finite_strength_ends_near_the_anchor():
    client = make(DittoClient, lambda_=1e8)
    start = client.get_parameters({})
    client.fit(start, {"server-round": 1})
    for name, values in zip(client.shared_names, start, strict=True):
        if name in dict(client.model.named_parameters()):
            np.testing.assert_allclose(own(client)[name], values, atol=1e-6)


def test_the_anchor_is_what_was_received_and_not_what_was_trained():
    # with a proximal term this strong, an anchor that moved with training would show
    client = make(DittoClient, lambda_=1e6)
    start = client.get_parameters({})
    sent, _, _ = client.fit(start, {"server-round": 1})
    place = client.shared_names.index("head.weight")
    assert np.abs(sent[place] - start[place]).max() > 1e-3
    np.testing.assert_allclose(own(client)["head.weight"], start[place], atol=1e-4)


def test_own_batch_norm_statistics_are_the_clients_own():
    client = make(DittoClient, lambda_=0.3)
    start = client.get_parameters({})
    client.fit(start, {"server-round": 1})
    place = client.shared_names.index("bn.num_batches_tracked")
    assert int(own(client)["bn.num_batches_tracked"]) == int(start[place]) + 3
    client.evaluate(start, {"server-round": 1})
    assert torch.equal(client.model.bn.running_mean, own(client)["bn.running_mean"])


# ---------------------------------------------------------------------- lambda


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"lambda_": -1.0}, "lambda_"),
        ({"lambda_": math.nan}, "lambda_"),
        ({"lambda_": ()}, "lambda_"),
        ({"lambda_": (1.0, 0.1)}, "lambda_"),
        ({"lambda_": (1.0, 1.0)}, "lambda_"),
        ({}, "lambda_"),
        ({"lambda_": 1.0, "tau": 1.0}, "lambda_"),
        ({"tau": 0.0}, "tau"),
    ],
)
def test_bad_strengths(options, name):
    with refused(ArgumentError, argument=name, value=options.get(name)):
        make(DittoClient, **options)


def test_strengths_with_which_a_step_would_overshoot_say_the_largest():
    with refused(ArgumentError, argument="lambda_", value=101.0) as caught:
        make(PFedMeClient, lambda_=101.0)
    assert "at most 100 " in caught.value.wanted
    sgd = Optimization(learning_rate=0.1)
    make(L2GDClient, lambda_=1.1, optimization=sgd, averaging_probability=0.1)
    with refused(ArgumentError, argument="lambda_", value=1.2) as caught:
        make(L2GDClient, lambda_=1.2, optimization=sgd, averaging_probability=0.1)
    assert "at most 1.111" in caught.value.wanted
    assert make(L2GDClient, lambda_=1.0, optimization=sgd).averaging_probability == 0.1
    steep = make(L2GDClient, lambda_=(1.0, 90.0, math.inf), optimization=sgd)
    assert steep.averaging_probability == pytest.approx(0.9)
    with refused(ArgumentError, argument="averaging_probability", value=0.0):
        make(L2GDClient, lambda_=0.1, averaging_probability=0.0)


def test_no_strength_is_too_large_for_a_learning_rate():
    client = make(DittoClient, lambda_=1e6, optimization=Optimization(learning_rate=0.5))
    assert np.isfinite(flat(play(client, 5))).all()
    assert all(torch.isfinite(value).all() for value in own(client).values())


def test_a_strength_from_the_amount_of_data():
    assert strength_for(50, 0.5) == pytest.approx(1 / (50 * 0.25))
    assert strength_for(0, 0.5) == math.inf
    assert make(DittoClient, count=20, tau=0.5).lambdas == (1 / (20 * 0.25),)
    client = make(DittoClient, count=20, tau=0.5)
    play(client, 1)
    assert client.evaluate(client.get_parameters({}), {})[2]["lambda"] == pytest.approx(0.2)


def test_auto_takes_what_validation_says_and_reports_it():
    grid = (0.0, 0.3, math.inf)
    client = make(DittoClient, lambda_=grid, count=40)
    sent = play(client, 5)
    _, _, metrics = client.evaluate(sent, {"server-round": 5})
    chosen = metrics["lambda"]
    assert chosen in grid
    scores = {}
    for strength in grid:
        alone = make(DittoClient, lambda_=strength, count=40)
        assert np.array_equal(flat(play(alone, 5)), flat(sent))  # Ditto's anchor ignores lambda
        _, _, found = alone.evaluate(sent, {"server-round": 5})
        scores[strength] = found["validation-accuracy"], -found["validation-loss"]
        if strength == chosen:
            assert found["accuracy"] == metrics["accuracy"]
    assert scores[chosen] == max(scores.values())


@pytest.mark.parametrize("kind", [DittoClient, MRMTLClient, PFedMeClient, L2GDClient])
def test_each_candidate_is_trained_as_if_it_were_alone(kind):
    grid = (0.1, 0.5, 0.9, math.inf)
    together = make(kind, lambda_=grid)
    together.fit(together.get_parameters({}), {"server-round": 1})
    for strength in grid[:3]:
        alone = make(kind, lambda_=strength)
        alone.fit(alone.get_parameters({}), {"server-round": 1})
        for name, value in own(together, f"own-{strength:g}").items():
            assert torch.equal(value, own(alone)[name]), (strength, name)


def test_what_a_client_received_is_not_moved_by_its_training():
    client = make(PFedMeClient, lambda_=15.0)
    before = [values.copy() for values in client.get_parameters({})]
    received = [values.copy() for values in before]
    client.fit(received, {"server-round": 1})
    assert np.array_equal(flat(before), flat(received))


@pytest.mark.parametrize("kind", [DittoClient, APFLClient])
def test_nothing_of_the_shared_model_can_be_personal(kind):
    model = TinyNet()
    loader = in_memory_loader(*examples(8), 8)
    options = {} if kind is APFLClient else {"lambda_": 0.1}
    with refused(ArgumentError, argument="personal_names"):
        kind(model, assign_scopes(model, "head"), loader, **options)
    with refused(ArgumentError, argument="participation", value=0.0):
        make(kind, participation=0.0, **options)


def test_auto_with_too_few_validation_examples_takes_the_middle():
    client = make(DittoClient, lambda_=(0.0, 0.3, math.inf), validation=3)
    sent = play(client, 1)
    assert client.evaluate(sent, {"server-round": 1})[2]["lambda"] == 0.3


def test_auto_of_mr_mtl_sends_the_chosen_model():
    client = make(MRMTLClient, lambda_=(0.0, 100.0))
    sent = play(client, 3)
    chosen = client.evaluate(sent, {"server-round": 3})[2]["lambda"]
    kept = own(client, f"own-{chosen:g}")
    place = client.shared_names.index("head.weight")
    assert np.array_equal(kept["head.weight"].numpy(), sent[place])


def test_an_unseen_client_trains_the_received_model_under_the_tether():
    start = TinyNet().state_dict()
    for strength, moves in ((0.0, True), (1e9, False), (math.inf, False)):
        client = make(DittoClient, lambda_=strength)
        client.evaluate(
            client.get_parameters({}), {"adaptation-examples": 8, "adaptation-steps": 5}
        )
        moved = (client.model.head.weight - start["head.weight"]).abs().max() > 1e-4
        assert bool(moved) is moves, strength


def test_personal_state_of_another_objective_is_refused(tmp_path):
    def client(kind, method, **options):
        made = make(kind, **options)
        made.state = PersonalState(RecordDict(), method, client="c", directory=tmp_path)
        return made

    play(client(DittoClient, "ditto", lambda_=0.3), 1)
    play(client(DittoClient, "ditto", lambda_=1.0), 1)  # another lambda goes on from there
    for kind, method, options in (
        (MRMTLClient, "mr-mtl", {"lambda_": 0.3}),
        (APFLClient, "apfl", {}),
        (DittoClient, "ditto", {"lambda_": (0.1, 1.0)}),
    ):
        with pytest.raises(ForeignStateError):
            play(client(kind, method, **options), 1)


# ---------------------------------------------------------------------- APFL


def test_apfls_gradients_are_those_of_finite_differences():
    torch.manual_seed(0)
    shared, mine = TinyNet(1).double().eval(), TinyNet(2).double().eval()
    inputs, targets = examples(10)
    inputs = inputs.double()
    mixture = Mixture(shared, mine, torch.tensor(0.3, dtype=torch.float64))
    alpha, outputs = mixture.alpha, mixture(inputs)
    (cross_entropy(outputs[0], targets) + cross_entropy(outputs[1], targets)).backward()

    def loss_at(value):
        mixed = TinyNet().double().eval()
        mixed.load_state_dict(mix(mine.state_dict(), shared.state_dict(), value, PARAMETERS))
        return float(cross_entropy(mixed(inputs), targets).detach())

    step = 1e-5
    expected = (loss_at(0.3 + step) - loss_at(0.3 - step)) / (2 * step)
    assert float(alpha.grad) == pytest.approx(expected, rel=1e-5)
    assert float(outputs[1].detach().sum()) != float(outputs[0].detach().sum())
    # w feels its own loss only, v the mixture's, alpha times
    alone = TinyNet(1).double().eval()
    cross_entropy(alone(inputs), targets).backward()
    torch.testing.assert_close(shared.head.weight.grad, alone.head.weight.grad)
    mixed = TinyNet().double().eval()
    mixed.load_state_dict(mix(mine.state_dict(), shared.state_dict(), 0.3, PARAMETERS))
    cross_entropy(mixed(inputs), targets).backward()
    torch.testing.assert_close(mine.head.weight.grad, 0.3 * mixed.head.weight.grad)


@settings(max_examples=20)
@given(st.floats(0, 1))
def test_a_mixture_of_a_model_with_itself_is_that_model(alpha):
    state = TinyNet().state_dict()
    for name, value in mix(state, state, alpha, PARAMETERS).items():
        torch.testing.assert_close(value, state[name])


def test_the_mixing_weight_adapts_within_its_bounds_and_a_given_one_does_not():
    client = make(APFLClient)
    play(client, 4)
    alpha = float(client.state.load(client.spec).arrays["mixing/alpha"])
    assert 0 <= alpha <= 1
    assert alpha != 0.5
    fixed = make(APFLClient, mixing=0.25)
    play(fixed, 2)
    assert float(fixed.state.load(fixed.spec).arrays["mixing/alpha"]) == 0.25
    with refused(ArgumentError, argument="mixing", value=1.5):
        make(APFLClient, mixing=1.5)


def test_a_mixture_has_the_running_statistics_that_were_taken_of_it():
    mine, shared = TinyNet(1).state_dict(), TinyNet(2).state_dict()
    shared["bn.running_mean"] += 1
    mixed = mix(mine, shared, 0.5, PARAMETERS)
    assert torch.equal(mixed["bn.running_mean"], mine["bn.running_mean"])
    torch.testing.assert_close(
        mixed["head.weight"], (mine["head.weight"] + shared["head.weight"]) / 2
    )
    assert mix(mine, shared, 0.0, PARAMETERS) is shared


def test_an_unseen_client_of_apfl_fits_its_mixture_unless_that_is_the_shared_model():
    for alpha, moves in ((0.0, False), (0.5, True), (None, True)):
        client = make(APFLClient, mixing=alpha)
        received = client.get_parameters({})
        client.evaluate(received, {"adaptation-examples": 8, "adaptation-steps": 5})
        assert np.array_equal(flat(received), flat(client.get_parameters({}))) is not moves


def test_apfl_at_one_trains_alone_and_at_zero_is_fedavg():
    alone = make(APFLClient, mixing=1.0)
    fedavg = make(APFLClient, mixing=0.0)
    sent = play(alone, 1)
    plain = TinyNet()
    with alone.random(1, "train"):
        train(plain, alone.train_loader, joint(1), alone.scopes)
    for name, values in zip(alone.shared_names, sent, strict=True):
        expected = plain.state_dict()[name]
        assert np.array_equal(values, expected.numpy())  # w is FedAvg's whatever alpha is
        assert torch.equal(own(alone)[name], expected)  # and v, at one, is trained as it is
    received = [np.asarray(values * 2) for values in sent]
    fedavg.fit(received, {"server-round": 1})
    fedavg.evaluate(received, {"server-round": 1})
    assert np.array_equal(flat(fedavg.get_parameters({})), flat(received))
