"""Whole runs of the methods that train one model a group of clients."""

from collections import Counter
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from flwr.app import Message

from clients import Scope
from clients.local_training.adaptation import ALL
from clients.scopes import names_of
from pfl_flower.client_app import make_app
from pfl_flower.config.run_config import RunConfig
from pfl_flower.data import Federation
from pfl_flower.engines import simulate
from pfl_flower.grid import GridWithout, InProcessGrid
from pfl_flower.model_setup import initial_model, model_setup
from pfl_flower.results.files import summarize
from pfl_flower.server.fallback import FALLBACKS
from pfl_flower.server.run import play
from strategies import NO_GROUP
from strategies.arrays import view
from tests.grids import RecordingGrid, ShuffledGrid, leaks
from tests.helpers import assert_identical, request
from tests.tiers import quick_first

CLIENTS = 8
BASE = {
    "dataset": "digits",
    "partition": "iid",
    "heterogeneity": "taste",
    "cluster-sizes": "3,5",
    "min-examples": 10,
    "max-examples": 40,
    "baselines": "",
    "num-server-rounds": 3,
    "local-epochs": 1,
}
GROUPED = ("known-groups", "gradient-clusters", "ifca", "cfl")
FOUND = GROUPED[1:]
SPLITTING = {"method": "cfl", "mean-below": 0.9, "num-server-rounds": 6}
"""CFL that splits its clients after round 3."""


def true_clusters(config=BASE):
    """Client -> the cluster that the data put it in."""
    return dict(enumerate(Federation(RunConfig.parse(config).data, CLIENTS).true_clusters))


def partition(groups):
    """The groups as sets of clients, whatever their numbers are."""
    return {frozenset(c for c in groups if groups[c] == group) for group in set(groups.values())}


def run_of(options, **more):
    return simulate(BASE | options | more, CLIENTS)[0]


def bits(record):
    return {name: view(array).tobytes() for name, array in sorted(record.items())}


def outcome(run):
    """Every number of a run but for the groups; as text, because NaN equals NaN there."""
    reports = [
        (
            *(r.round, r.phase, r.client),
            sorted((name, value) for name, value in r.metrics.items() if name != "group"),
            *(r.bytes_down, r.bytes_up, r.dropped),
        )
        for r in run.reports
    ]
    return repr(reports), bits(run.arrays)


def models_of(run):
    return {group: bits(model) for group, model in run.grouping.models.items()}


def grouping_of(run):
    """Everything that is known of a run's groups."""
    found = run.grouping
    return (
        *(found.groups, repr(found.assignments), models_of(run)),
        *(list(found.clients), list(found.examples), found.bytes_down, found.bytes_up),
        None if found.similarity is None else found.similarity.tobytes(),
    )


def played(options, grid=InProcessGrid, **more):
    """The runs of a config on a grid of some kind, and the grid."""
    config = RunConfig.parse(BASE | options | more)
    built = grid(make_app(config.dump()), CLIENTS)
    return list(play(built, replace(config, wait=0.0))), built


def arrays_in(message):
    return bits(message.content["arrays"])


# ---------------------------------------------------------------------- what must be FedAvg


@pytest.mark.parametrize("fraction", quick_first([1.0, 0.5]))
@pytest.mark.parametrize(
    "options",
    [
        {"method": "known-groups", "group": "none"},
        {"method": "known-groups", "cluster-sizes": "8"},
        {"method": "gradient-clusters", "clusters": 1},
        {"method": "gradient-clusters", "group": "none"},
        {"method": "ifca", "clusters": 1},
        {"method": "cfl", "mean-below": 1e-9, "num-server-rounds": 4},
    ],
    ids=repr,
)
def test_one_group_is_fedavg_bit_for_bit(options, fraction):
    common = {"fraction-train": fraction, "server-momentum": 0.5 if fraction == 1 else 0.0}
    found = run_of(options | common)
    kept = {
        name: options[name] for name in ("cluster-sizes", "num-server-rounds") if name in options
    }
    assert outcome(found) == outcome(run_of({"method": "fedavg"} | kept | common))
    if "group" not in options:
        assert list(models_of(found).values()) == [bits(found.arrays)]


@pytest.mark.integration
@pytest.mark.parametrize("momentum", [0.0, 0.5])
def test_known_groups_are_fedavg_in_each_group_alone_bit_for_bit(momentum):
    common = {"server-momentum": momentum, "min-examples": 0, "max-examples": 0}
    both = run_of({"method": "known-groups"}, **common)
    clusters = true_clusters()
    assert both.grouping.groups == clusters
    assert Counter(clusters.values()) == {0: 3, 1: 5}
    config = RunConfig.parse(BASE | common | {"method": "fedavg"})
    for cluster, model in models_of(both).items():
        others = {100 + client for client in clusters if clusters[client] != cluster}
        grid = GridWithout(InProcessGrid(make_app(config.dump()), CLIENTS), others)
        (alone,) = play(grid, replace(config, wait=0.0))
        assert bits(alone.arrays) == model
        for client, accuracy in alone.by_client().items():
            assert both.by_client()[client] == accuracy


def test_clusters_found_by_gradients_are_trained_as_clusters_that_are_known():
    known, found = (run_of({"method": method}) for method in GROUPED[:2])
    assert partition(found.grouping.groups) == partition(known.grouping.groups)
    assert known.by_client() == found.by_client()
    assert bits(known.arrays).keys() == bits(found.arrays).keys()


def test_cfl_splits_into_the_true_clusters():
    run = run_of(SPLITTING)
    assert partition(run.grouping.groups) == partition(true_clusters())
    assert {p.round for p in run.grouping.assignments} == {1, 4}
    assert len(set(map(repr, models_of(run).values()))) == 2


# ---------------------------------------------------------------------- what leaves a client


def gradient_shapes(grid):
    """The shapes of all gradients that left a client."""
    return {
        array.shape
        for exchange in grid.exchanges
        for record in exchange.reply.content.array_records.values()
        for name, array in record.items()
        if name == "gradient"
    }


def assert_nothing_personal_left(grid):
    assert not [leak for exchange in grid.exchanges for leak in leaks(exchange)]


QUERIES = {
    "known-groups": {"query": 2 * CLIENTS},
    "gradient-clusters": {"query": CLIENTS, "query.gradient": CLIENTS},
    "ifca": {"query": CLIENTS, "query.losses": 3 * CLIENTS},
    "cfl": {"query": CLIENTS},
}


@pytest.mark.integration
@pytest.mark.parametrize("method", GROUPED)
@pytest.mark.parametrize("personal", ["none", "head"])
def test_nothing_personal_is_in_any_message(method, personal):
    options = {"method": method, "personal": personal}
    options |= {"projection-size": 0} if method == "gradient-clusters" else {}
    (run,), grid = played(options, RecordingGrid)
    scopes = model_setup(run.config).scopes
    grouped = names_of(scopes, Scope.GROUP)
    assert set(run.arrays) == set(grouped)
    assert all(set(model) == set(grouped) for model in run.grouping.models.values())
    assert_nothing_personal_left(grid)
    types = Counter(exchange.message_type for exchange in grid.exchanges)
    assert types == {**QUERIES[method], "train": 3 * CLIENTS, "evaluate": 3 * CLIENTS}
    heads = names_of(scopes, Scope.PERSONAL)
    kept = any(exchange.after for exchange in grid.exchanges)
    assert bool(heads) == kept == (personal == "head")
    model, _ = initial_model(run.config.architecture, 0)
    size = sum(values.numel() for name, values in model.named_parameters() if name in grouped)
    assert gradient_shapes(grid) == ({(size,)} if method == "gradient-clusters" else set())


@pytest.mark.integration
def test_nothing_personal_is_in_a_message_of_unseen_clients_a_safeguard_or_a_revision():
    options = {"method": "gradient-clusters", "personal": "head", "unseen": 0.25}
    (*_, chosen), grid = played(options, RecordingGrid, **{"safeguard": True, "revise-every": 1})
    assert_nothing_personal_left(grid)
    assert any(exchange.after for exchange in grid.exchanges)
    assert len(chosen.reports) == 6


def test_a_projected_gradient_is_short_and_finds_the_same_clusters():
    options = {"method": "gradient-clusters", "projection-size": 512}
    (run,), grid = played(options, RecordingGrid)
    assert gradient_shapes(grid) == {(512,)}
    assert partition(run.grouping.groups) == partition(true_clusters())


# ---------------------------------------------------------------------- who is there when


@pytest.mark.parametrize("options", [*({"method": m} for m in GROUPED), SPLITTING], ids=repr)
def test_the_order_of_nodes_and_replies_changes_no_bit(options):
    (run,), _ = played(options)
    (other,), _ = played(options, ShuffledGrid)
    assert outcome(run) == outcome(other)
    assert grouping_of(run) == grouping_of(other)


def test_late_joiners_end_in_their_cluster_and_the_assignments_say_so():
    run = run_of({"method": "gradient-clusters", "late": 0.3})
    assert partition(run.grouping.groups) == partition(true_clusters())
    late = {p.client for p in run.grouping.assignments if p.round == 3}
    assert len(late) == 2
    assert late == set(run.by_client()) - set(run.by_client(server_round=1))
    for assignment in run.grouping.assignments:
        joined = assignment.client in late
        assert assignment.round == (3 if joined else 1)
        assert assignment.reason == ("joined" if joined else "found") + " by its gradient"
        assert assignment.score > 0.4


def test_late_joiners_are_asked_at_the_start_that_the_others_were_asked_at():
    _, grid = played({"method": "gradient-clusters", "late": 0.3}, RecordingGrid)
    queries = grid.of_type("query.gradient")
    assert sorted(e.client for e in queries) == list(range(CLIENTS))
    assert len({repr(arrays_in(e.message)) for e in queries}) == 1


def test_a_query_for_a_gradient_says_which_round_it_belongs_to():
    (run,), grid = played({"method": "gradient-clusters", "late": 0.3}, RecordingGrid)
    rounds = {p.client: p.round for p in run.grouping.assignments}
    asked = {e.client: e.config.get("server-round") for e in grid.of_type("query.gradient")}
    assert asked == rounds


@pytest.mark.parametrize("options", [{"method": "ifca"}, SPLITTING | {"num-server-rounds": 8}])
def test_late_joiners_get_the_model_that_fits_them_best(options):
    run = run_of(options, late=0.3)
    half = RunConfig.parse(BASE | options).num_server_rounds // 2 + 1
    late = {p.client for p in run.grouping.assignments} - {
        p.client for p in run.grouping.assignments if p.round == 1
    }
    first = {p.client: p for p in reversed(run.grouping.assignments)}
    assert len(late) == 2
    for client in late:
        assert first[client].round in (half, half + 1)
        assert first[client].reason == "the lowest training loss"
    assert run.grouping.groups.keys() == run.by_client().keys() == set(range(CLIENTS))


@pytest.mark.parametrize("method", GROUPED)
def test_with_few_clients_a_round_all_are_placed_and_evaluated(method):
    options = {"method": method, "fraction-train": 0.3} | (
        {"clusters": 2} if method == "ifca" else {}
    )
    run = run_of(options)
    assert all(run.by_client(server_round=r).keys() == set(range(CLIENTS)) for r in (1, 2, 3))
    trained = {report.client for report in run.reports if report.phase == "train"}
    placed = trained if method == "cfl" else set(range(CLIENTS))  # whoever trains is in the group
    assert run.grouping.groups.keys() == placed
    assert NO_GROUP not in run.grouping.groups.values()
    assert not any(report.dropped for report in run.reports)
    for server_round in (1, 2, 3):
        reports = [r for r in run.reports if (r.phase, r.round) == ("train", server_round)]
        assert len(reports) == 2


# ---------------------------------------------------------------------- unseen clients

UNSEEN = [
    {"method": "known-groups"},
    {"method": "gradient-clusters"},
    {"method": "ifca", "clusters": 2},
    SPLITTING,
]


@pytest.mark.parametrize("options", UNSEEN, ids=repr)
def test_unseen_clients_without_examples_get_the_mean_and_with_all_their_clusters_model(options):
    (run,), grid = played(options, RecordingGrid, unseen=0.25)
    unseen = {report.client for report in run.unseen[0]}
    assert len(unseen) == 2
    models, mean = models_of(run), bits(run.arrays)
    none = {e.client: e.message for e in grid.of_type("evaluate", adaptation_examples=0)}
    every = {e.client: e.message for e in grid.of_type("evaluate", adaptation_examples=ALL)}
    assert none.keys() == every.keys() == unseen
    assert not grid.of_type("query.gradient", adaptation_examples=0)
    clusters = run.grouping.groups
    if options["method"] in ("gradient-clusters", "cfl"):
        assert partition(clusters) == partition(
            {c: t for c, t in true_clusters().items() if c in clusters}
        )
    for reports, messages in ((run.unseen[0], none), (run.unseen[ALL], every)):
        for report in reports:
            group = report.metrics["group"]
            assert arrays_in(messages[report.client]) == (
                mean if group == NO_GROUP else models[group]
            )
    reported = options["method"] == "known-groups"  # that takes no example
    assert {r.metrics["group"] == NO_GROUP for r in run.unseen[0]} == {not reported}
    for report in run.unseen[ALL]:
        mates = {c for c in clusters if clusters[c] == report.metrics["group"]}
        assert mates
        if options["method"] != "ifca":
            assert {true_clusters()[c] for c in mates} == {true_clusters()[report.client]}


@lru_cache
def with_and_without_unseen_clients(place):
    """The groups that two runs found: one with unseen clients, one without those nodes."""
    run = run_of(UNSEEN[place], unseen=0.25)
    unseen = {report.client for report in run.unseen[0]}
    config = RunConfig.parse(BASE | UNSEEN[place])
    grid = InProcessGrid(make_app(config.dump()), CLIENTS)
    (without,) = play(GridWithout(grid, {100 + c for c in unseen}), replace(config, wait=0.0))
    return run, without


@pytest.mark.parametrize("place", quick_first(range(len(UNSEEN))))
def test_nothing_that_unseen_clients_report_is_kept(place):
    run, without = with_and_without_unseen_clients(place)
    assert outcome(run) == outcome(without)
    found, expected = run.grouping, without.grouping
    assert found.groups == expected.groups
    assert repr(found.assignments) == repr(expected.assignments)
    assert models_of(run) == models_of(without)
    assert list(found.clients) == list(expected.clients)
    np.testing.assert_array_equal(found.similarity, expected.similarity)


@pytest.mark.integration
@pytest.mark.parametrize("place", range(1, len(UNSEEN)))
def test_questions_to_unseen_clients_are_no_cost_of_finding_groups(place):
    run, without = with_and_without_unseen_clients(place)
    found, expected = run.grouping, without.grouping
    assert (found.bytes_down, found.bytes_up) == (expected.bytes_down, expected.bytes_up)


# ---------------------------------------------------------------------- safeguard, revision


@pytest.mark.integration
def test_under_a_safeguard_a_client_chooses_among_its_own_clusters_model_and_the_fallbacks():
    options = {"method": "gradient-clusters", "safeguard": True, "num-server-rounds": 4}
    (own, *others, chosen), grid = played(options, RecordingGrid)
    assert [run.config.method for run in others] == list(FALLBACKS)
    assert chosen.method == "gradient-clusters safeguarded"
    clusters, models = own.grouping.groups, models_of(own)
    fedavg = bits(others[0].arrays)
    choosing = grid.of_type("evaluate", safeguard="gradient-clusters,fedavg,local")
    asked = {e.client: e.message for e in choosing}
    assert asked.keys() == set(range(CLIENTS))
    for client, message in asked.items():
        received = arrays_in(message)
        expected = {f"gradient-clusters/{n}": a for n, a in models[clusters[client]].items()}
        assert received == expected | {f"fedavg/{n}": a for n, a in fedavg.items()}
    candidates = (own, *others)
    for client, place in chosen.by_client("chosen").items():
        assert chosen.by_client()[client] == candidates[int(place)].by_client()[client]
    assert len(set(chosen.by_client("chosen").values())) > 1


@pytest.mark.integration
def test_a_client_in_a_wrong_cluster_moves_when_groups_are_revised():
    options = {"method": "gradient-clusters", "revise-every": 3, "num-server-rounds": 8}
    sizes = {"min-examples": 0, "max-examples": 0}

    class Mistaken(InProcessGrid):
        """Client 0 reports the gradient of a client of the other cluster."""

        def answer(self, message):
            query = message.metadata.message_type == "query.gradient"
            if not query or message.metadata.dst_node_id != 100:
                return super().answer(message)
            other = super().answer(request(101, "query.gradient", message.content))
            other.content["metrics"]["partition-id"] = 0
            return Message(other.content, reply_to=message)

    assert true_clusters()[0] != true_clusters()[1]
    (run,), _ = played(options, Mistaken, **sizes)
    moved = [p for p in run.grouping.assignments if p.reason == "a lower validation loss"]
    assert [p.client for p in moved] == [0]
    assert moved[0].round in (4, 7)
    assert partition(run.grouping.groups) == partition(true_clusters())


def test_groups_are_revised_once_after_every_so_many_rounds():
    options = {"method": "gradient-clusters", "revise-every": 1}
    _, grid = played(options, RecordingGrid)
    assert len(grid.of_type("query.losses")) == 2 * CLIENTS  # before rounds 2 and 3


def test_unseen_clients_do_not_make_the_others_revise_their_groups():
    options = {"method": "gradient-clusters", "revise-every": 2, "unseen": 0.25}
    _, grid = played(options, RecordingGrid)
    assert not [e.client for e in grid.of_type("query.losses") if "adaptation-examples" in e.config]


# ---------------------------------------------------------------------- resume, Ray


class Killed(BaseException):
    """Nothing catches it, as nothing catches SIGKILL."""


def killed_at(message_type, count):
    """A kind of grid that ends with the ``count``-th message of a type."""

    class Doomed(InProcessGrid):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            self.left = count

        def answer(self, message):
            self.left -= message.metadata.message_type == message_type
            if not self.left:
                raise Killed
            return super().answer(message)

    return Doomed


IFCA_WITH_HEADS = {"method": "ifca", "clusters": 2, "personal": "head", "learning-rate": 1.0}
REVISED_WITH_HEADS = {"method": "gradient-clusters", "personal": "head", "revise-every": 1}
LATE = {"late": 0.3, "fraction-train": 0.6, "server-momentum": 0.5, "num-server-rounds": 5}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("options", "message_type", "count"),
    quick_first(
        [
            (SPLITTING | {"fraction-train": 0.6}, "train", 10),  # updates of several rounds
            ({"method": "known-groups", "personal": "head"} | LATE, "evaluate", 9),
            ({"method": "gradient-clusters"} | LATE, "train", 7),
            (REVISED_WITH_HEADS, "train", 20),
            ({"method": "gradient-clusters", "unseen": 0.25} | LATE, "query.gradient", 6),
            ({"method": "ifca"} | LATE, "query.losses", 16),
            (IFCA_WITH_HEADS, "evaluate", 11),
            (SPLITTING, "train", 18),  # before it splits
            (SPLITTING | {"late": 0.3}, "evaluate", 29),
        ]
    ),
    ids=repr,
)
def test_a_killed_run_that_is_resumed_ends_as_one_never_killed(
    tmp_path, options, message_type, count
):
    config = BASE | options
    (whole,) = simulate({**config, "personal-dir": str(tmp_path / "whole")}, CLIENTS)
    interrupted = {**config, "personal-dir": str(tmp_path / "devices")}
    parsed = RunConfig.parse(interrupted)
    grid = killed_at(message_type, count)(make_app(interrupted), CLIENTS)
    with pytest.raises(Killed):
        list(play(grid, replace(parsed, wait=0.0), folder=tmp_path / "run"))
    again, played_rounds = {**interrupted, "resume": str(tmp_path / "run")}, []
    (resumed,) = simulate(again, CLIENTS, progress=lambda news: played_rounds.append(news.round))
    assert played_rounds[0] > 1
    assert outcome(resumed) == outcome(whole)
    assert grouping_of(resumed) == grouping_of(whole)
    (complete,) = simulate(again, CLIENTS)
    assert grouping_of(complete) == grouping_of(whole)


@pytest.mark.deployment
def test_the_same_numbers_on_ray_bit_for_bit():
    options = {"method": "gradient-clusters", "fraction-train": 0.5, "num-server-rounds": 2}
    here = simulate(BASE | options, CLIENTS)
    ray = simulate(BASE | options, CLIENTS, engine="ray")
    assert_identical(here, ray)
    assert grouping_of(here[0]) == grouping_of(ray[0])


IID = {
    "dataset": "digits",
    "partition": "iid",
    "heterogeneity": "taste",
    "baselines": "",
    "local-epochs": 1,
    "num-server-rounds": 2,
}


@pytest.mark.parametrize("clients", [1, 2])
def test_a_cluster_of_two_needs_two(clients):
    config = {**IID, "method": "gradient-clusters", "smallest-cluster": 2}
    (run,) = simulate(config, clients)
    assert set(run.grouping.groups.values()) == {-1}
    assert len(run.by_client()) == clients


def test_what_finding_groups_takes_counts_among_the_bytes_of_a_round():
    config = {**IID, "cluster-sizes": "3,5", "clusters": 2}
    (run,) = simulate({**config, "method": "ifca"}, 8)
    sent = [r.bytes_down for r in run.reports]
    model = sent[0]
    assert set(sent) == {model}
    down = summarize(run)["bytes_per_round"]["down"]
    assert down == pytest.approx(2 * model + 2 * model)  # to train, to evaluate; two to choose from
