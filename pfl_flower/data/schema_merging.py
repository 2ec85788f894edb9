"""Merging of what clients report of their data, into the data schema of a run."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from clients.data.table_cells import Categories
from pfl_flower.data.categories import (
    features_of_model,
    merge_categories,
    with_moments_of_one_hot,
)
from pfl_flower.data.moments import merge_moments
from pfl_flower.data.pixels import common_pixels
from pfl_flower.data.schema import ClientSchema, DataSchema, TaskName, ordered
from strategies.errors import ArgumentError


def merge_schemas(schemas: Mapping[int, ClientSchema]) -> tuple[DataSchema, dict[int, str]]:
    """Return the data schema, and the reason for every client whose data do not fit it.

    The data schema has the shape, task and columns that most clients have (ties: the lowest
    client's). Where all targets of all clients that have floats are 0.0 or 1.0, these are two
    classes, which they are far more often than amounts; no client can tell that by itself.

    Parameters
    ----------
    schemas : mapping
        Client -> its schema, at least one.

    Returns
    -------
    schema : DataSchema
        The merged schema.
    reasons : dict
        Client whose data do not fit -> the reason, in words.

    Raises
    ------
    ArgumentError
        If there is no schema.
    """
    if not schemas:
        raise ArgumentError("schemas", {}, "of one client or more")
    schemas = _with_longest(_with_classes(schemas))
    kinds = Counter(_kind(own) for _, own in sorted(schemas.items()))
    kind, common = kinds.most_common(1)[0]
    graph, shape, task, inputs = kind
    deviants = {
        client: f"its {_noun(own.graph)} have shape {own.shape} and are for {own.task}; the "
        f"{_noun(graph)} of {common} clients have shape {shape} and are for {task}"
        + _difference(own, kind)
        for client, own in sorted(schemas.items())
        if _kind(own) != kind
    }
    columns, misnamed = _common_columns({c: own for c, own in schemas.items() if c not in deviants})
    deviants |= misnamed
    scales = {c: own.pixels for c, own in sorted(schemas.items()) if c not in deviants}
    pixels, unscaled = common_pixels(scales)
    deviants |= unscaled
    fitting = [own for client, own in sorted(schemas.items()) if client not in deviants]
    labels = {label for own in fitting for label in own.labels}
    features = [own.features for own in fitting if own.features and own.features.finite]
    targets = [own.target for own in fitting if own.target and own.target.finite]
    edges = [own.edges for own in fitting if own.edges is not None]
    schema = DataSchema(
        shape,
        task,
        ordered(labels),
        merge_moments(features) if features else None,
        merge_moments(targets) if targets else None,
        graph,
        (sum(kept for kept, _ in edges), sum(dropped for _, dropped in edges)) if edges else None,
        all(own.standardize for own in fitting),
        columns,
        all(own.integers for own in fitting),
        whole_targets=all(own.whole_targets for own in fitting),
        pixels=pixels,
        inputs=inputs,
        dates=next((own.dates for own in fitting if own.columns), ()),
        left_out=sum(own.left_out for own in fitting),
    )
    return _with_categories(schema, [own.categories for own in fitting if own.columns]), deviants


def _with_categories(schema: DataSchema, reported: Sequence[Categories]) -> DataSchema:
    """Return the schema with columns of 0 and 1 for the categories of tables."""
    categories = merge_categories(reported)
    if not categories:
        return schema
    columns = features_of_model(schema.columns, categories)
    features = schema.features and with_moments_of_one_hot(schema.features, categories)
    return replace(
        schema, shape=(len(columns),), columns=columns, categories=categories, features=features
    )


def _with_classes(schemas: Mapping[int, ClientSchema]) -> dict[int, ClientSchema]:
    """Return the schemas, the floats of all clients being classes if all are 0.0 or 1.0."""
    numbers = {client: own for client, own in schemas.items() if own.task == "regression"}
    changes: dict[str, Any] = {"labels": ()}
    if all(own.labels for own in numbers.values()):
        changes = {"task": "classification", "target": None, "whole_targets": False}
    return {**schemas, **{client: replace(own, **changes) for client, own in numbers.items()}}


def _common_columns(schemas: Mapping[int, ClientSchema]) -> tuple[tuple[str, ...], dict[int, str]]:
    """Return the column names that most tables have, and the reason for every client with others.

    A client without column names has no table. Its shape is all that is checked.
    """
    named = {
        client: column_kinds(own.columns, own.dates, own.categories)
        for client, own in sorted(schemas.items())
        if own.columns
    }
    if not named:
        return (), {}
    common, count = Counter(named.values()).most_common(1)[0]
    reasons = {
        client: f"{column_difference(own, common)} of {count} clients"
        for client, own in named.items()
        if own != common
    }
    return tuple(name for name, _ in common), reasons


ColumnKinds = tuple[tuple[str, str], ...]
"""(name, kind) of each feature of a table: numbers, dates or categories."""


def column_kinds(
    columns: Sequence[str], dates: Sequence[str], categories: Categories
) -> ColumnKinds:
    """Return the features of a table, each with what it holds.

    Parameters
    ----------
    columns : sequence of str
        All of them.
    dates : sequence of str
        Those that are dates.
    categories : tuple
        Those that are categories.
    """
    kinds = dict.fromkeys(dates, "dates") | {name: "categories" for name, _ in categories}
    return tuple((name, kinds.get(name, "numbers")) for name in columns)


def column_difference(own: ColumnKinds, common: ColumnKinds) -> str:
    """Return in words which columns only one table has, and which only the others have.

    Parameters
    ----------
    own : tuple
        Columns of the one table, and what they hold.
    common : tuple
        Columns of the others.
    """
    here, there = dict(own), dict(common)
    if odd := [name for name in here if name in there and here[name] != there[name]]:
        name = odd[0]
        return f"its column {name!r} holds {here[name]} in place of {there[name]} in the tables"
    mine, theirs = (
        ", ".join(repr(name) for name in names if name not in others)
        for names, others in ((here, there), (there, here))
    )
    return f"its table has the features {mine} in place of {theirs} in the tables"


Kind = tuple[bool, tuple[int, ...], TaskName, tuple[str, ...]]


def _kind(own: ClientSchema) -> Kind:
    """Return what the data of all clients must have in common."""
    return own.graph, own.shape, own.task, own.inputs


def _difference(own: ClientSchema, kind: Kind) -> str:
    """Return what else there is to say of a client whose data differ from those of most."""
    _, shape, task, inputs = kind
    if own.inputs != inputs:
        mine, theirs = (", ".join(names) or "no names" for names in (own.inputs, inputs))
        return f"; its inputs have {mine}, and those of the others {theirs}"
    same = own.shape == shape and own.task != task
    return "; the run key task says what they are" if same else ""


def _with_longest(schemas: Mapping[int, ClientSchema]) -> dict[int, ClientSchema]:
    """Return the schemas, sequences being as long as the longest of clients with such inputs."""
    longest: dict[tuple[str, ...], int] = {}
    for own in schemas.values():
        if own.inputs:
            longest[own.inputs] = max(longest.get(own.inputs, 0), own.shape[1])
    return {
        client: replace(own, shape=(own.shape[0], longest[own.inputs])) if own.inputs else own
        for client, own in schemas.items()
    }


def _noun(graph: bool) -> str:
    return "nodes of a graph" if graph else "examples"
