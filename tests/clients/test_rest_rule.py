import pytest

from clients import Scope, ScopeError, assign_scopes, select
from clients.scopes import names_of
from tests.errors import refused
from tests.helpers import TinyNet

MODEL = TinyNet()


def having(scopes, scope):
    return set(names_of(scopes, scope))


def test_without_other_rules_the_rest_is_everything():
    scopes = assign_scopes(MODEL, group="rest")
    assert list(scopes) == list(MODEL.state_dict())
    assert set(scopes.values()) == {Scope.GROUP}


def test_what_is_personal_is_not_of_the_group():
    scopes = assign_scopes(MODEL, personal="head", group="rest")
    assert having(scopes, Scope.PERSONAL) == select(MODEL, "head")
    assert having(scopes, Scope.GROUP) == select(MODEL, "body")
    assert not having(scopes, Scope.SHARED)


def test_what_is_shared_is_not_of_the_group():
    scopes = assign_scopes(MODEL, group="rest", shared="norm")
    assert having(scopes, Scope.SHARED) == select(MODEL, "norm")
    assert having(scopes, Scope.GROUP) == select(MODEL, "body.*, head")
    assert not having(scopes, Scope.PERSONAL)


def test_all_three_together():
    scopes = assign_scopes(MODEL, personal="head", group="rest", shared="norm")
    assert having(scopes, Scope.PERSONAL) == select(MODEL, "head")
    assert having(scopes, Scope.SHARED) == select(MODEL, "norm")
    assert having(scopes, Scope.GROUP) == {"body.weight", "body.bias"}


def test_the_rest_may_be_nothing():
    assert set(assign_scopes(MODEL, group="rest", shared="all").values()) == {Scope.SHARED}
    scopes = assign_scopes(MODEL, personal="head", group="rest", shared="body")
    assert not having(scopes, Scope.GROUP)


def test_nothing_is_both_personal_and_shared():
    with pytest.raises(ScopeError) as raised:
        assign_scopes(MODEL, personal="norm", group="rest", shared="body")
    assert raised.value.entries == ("bn.weight",)
    assert raised.value.scopes == (Scope.SHARED, Scope.PERSONAL)


def test_rules_beside_it_still_have_to_match_something():
    with refused(ScopeError, rule="tail"):
        assign_scopes(MODEL, group="rest", shared="tail")
