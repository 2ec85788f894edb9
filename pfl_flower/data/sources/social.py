"""Generated social networks: stochastic block models whose communities permute the classes.

Every node has a hidden kind. Its features depend on the kind, and nodes of the same kind are
connected more often. Each community names the kinds differently. So one model for all communities
must be wrong in some, while the map from features and edges to the kind is the same everywhere.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pfl_flower.data.records import Examples, SourceRequest
from pfl_flower.data.subgraph import both_ways, connections
from strategies.randomness import generator

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CANDIDATES = 50
"""Number of random permutations among which a community takes the best one."""


@dataclass(frozen=True)
class SocialWorld:
    """Parameters of the social networks.

    Attributes
    ----------
    communities : int, default 4
        Number of communities; client i of n is in community ``i * communities // n``.
    nodes : int, default 200
        Number of nodes of each client.
    classes : int, default 6
        Number of kinds.
    features : int, default 32
        Number of features of a node: the prototype of its kind plus standard normal noise.
    signal : float, default 0.4
        Deviation of the entries of prototypes. At 0.4 a logistic regression on the features alone
        is right for three nodes in ten after 10 labelled nodes, and for six after 60.
    rotated : int, default 3
        Number of kinds whose names each community except the first permutes.
    inside, outside : float, default 0.06 and 0.008
        Probability that two nodes of a client are connected if they have the same kind, and if
        they have not, where both degree factors are 1. Their ratio is the homophily.
    spread : float, default 0.5
        Deviation of the logarithm of the degree factors (log-normal, mean 1); 0 for the plain
        stochastic block model.
    largest : float, default 4.0
        Upper limit of degree factors, before they are scaled to mean 1.
    across : float, default 0.3
        Mean number of a node's edges to other clients of its community.
    beyond : float, default 0.1
        Mean number of a node's edges to other communities.
    """

    communities: int = 4
    nodes: int = 200
    classes: int = 6
    features: int = 32
    signal: float = 0.4
    rotated: int = 3
    inside: float = 0.06
    outside: float = 0.008
    spread: float = 0.5
    largest: float = 4.0
    across: float = 0.3
    beyond: float = 0.1

    def community(self, client: int, num_clients: int) -> int:
        """Return the community of a client.

        Parameters
        ----------
        client, num_clients : int
            Number of the client, and of all clients.
        """
        return client * self.communities // num_clients


def social(request: SourceRequest) -> Examples:
    """Return the nodes of all clients' networks in the default :class:`SocialWorld`.

    Parameters
    ----------
    request : SourceRequest
        Its seed and its number of clients decide the examples.

    Returns
    -------
    examples : Examples
        See :func:`grow`.
    """
    return grow(SocialWorld(), request.seed, request.num_clients)


def grow(world: SocialWorld, seed: int, num_clients: int) -> Examples:
    """Draw a network for every client, and sparse edges between clients.

    The network of a client is a degree-corrected stochastic block model (Karrer and Newman 2011,
    arXiv:1008.3926, section II) whose blocks are the hidden kinds: nodes ``u`` and ``v`` are
    connected with probability ``p * f_u * f_v``, at most 1, where ``p`` is ``inside`` or
    ``outside``. Classes are the kinds, named as the community names them.

    Parameters
    ----------
    world : SocialWorld
        Parameters of the networks.
    seed : int
        Decides every draw.
    num_clients : int
        Number of natural clients, each with ``world.nodes`` nodes.

    Returns
    -------
    examples : Examples
        Inputs ``(N, features)`` float32, targets ``(N,)`` int64, edges and communities.
    """
    draw = generator(seed, "social", "prototypes")
    prototypes = world.signal * draw.normal(size=(world.classes, world.features))
    names = renamings(world, seed)
    community = np.array([world.community(client, num_clients) for client in range(num_clients)])
    features, labels, pairs = [], [], []
    for client in range(num_clients):
        draw = generator(seed, "social", client)
        kinds = draw.integers(world.classes, size=world.nodes)
        noise = draw.normal(size=(world.nodes, world.features))
        features.append(prototypes[kinds] + noise)
        labels.append(names[community[client]][kinds])
        pairs.append(friends(world, kinds, draw) + client * world.nodes)
        pairs.append(_external_edges(world, client, community, draw))
    count = num_clients * world.nodes
    edges = both_ways(connections(torch.from_numpy(np.concatenate(pairs, axis=1)), count))
    return Examples(
        torch.from_numpy(np.concatenate(features)).float(),
        torch.from_numpy(np.concatenate(labels)),
        np.repeat(np.arange(num_clients), world.nodes),
        edges=edges,
        community=np.repeat(community, world.nodes),
    )


def renamings(world: SocialWorld, seed: int) -> Ints:
    """Return the class that every community gives to every kind, ``(communities, classes)``.

    The first community uses the number of the kind. Every other one permutes the names of
    ``world.rotated`` kinds cyclically. Of :data:`CANDIDATES` random cycles it takes the one with
    which the number of kinds that any two communities name differently is closest to ``rotated``.

    Parameters
    ----------
    world : SocialWorld
        Parameters of the networks.
    seed : int
        Decides the candidates.
    """
    found = [np.arange(world.classes)]
    for community in range(1, world.communities):
        draw = generator(seed, "social", "names", community)
        candidates = [_rotation(world, draw) for _ in range(CANDIDATES)]
        off = [
            max(abs(int((own != other).sum()) - world.rotated) for other in found)
            for own in candidates
        ]
        found.append(candidates[int(np.argmin(off))])
    return np.array(found)


def _rotation(world: SocialWorld, draw: np.random.Generator) -> Ints:
    names = np.arange(world.classes)
    ring = draw.permutation(world.classes)[: world.rotated]
    names[ring] = np.roll(ring, 1)
    return names


def friends(world: SocialWorld, kinds: Ints, draw: np.random.Generator) -> Ints:
    """Draw the edges among the nodes of a client, ``(2, P)``, the smaller number first.

    Parameters
    ----------
    world : SocialWorld
        Parameters of the networks.
    kinds : ndarray
        Kind of every node, ``(nodes,)``.
    draw : Generator
        The random numbers.
    """
    factors = degree_factors(world, len(kinds), draw)
    pairs = []
    # One row at a time, because all pairs of a large network would not fit in memory.
    for node in range(len(kinds) - 1):
        others = slice(node + 1, None)
        chance = np.where(kinds[others] == kinds[node], world.inside, world.outside)
        chance = chance * factors[node] * factors[others]
        met = np.flatnonzero(draw.random(len(chance)) < chance) + node + 1
        pairs.append(np.stack([np.full_like(met, node), met]))
    return np.concatenate([np.empty((2, 0), dtype=np.int64), *pairs], axis=1)


def degree_factors(world: SocialWorld, count: int, draw: np.random.Generator) -> Floats:
    """Draw the degree factors of nodes, ``(count,)``: log-normal, scaled to mean 1.

    Parameters
    ----------
    world : SocialWorld
        Parameters of the networks.
    count : int
        Number of nodes.
    draw : Generator
        The random numbers.
    """
    factors = np.exp(world.spread * draw.normal(size=count)).clip(max=world.largest)
    scaled: Floats = factors / factors.mean()
    return scaled


def _external_edges(
    world: SocialWorld, client: int, community: Ints, draw: np.random.Generator
) -> Ints:
    """Draw edges ``(2, P)`` from nodes of a client to nodes of other clients, uniformly."""
    same = community == community[client]
    others = np.arange(len(community)) != client
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for amount, clients in ((world.across, same & others), (world.beyond, ~same)):
        # Half of the edges, because the other clients draw theirs, too.
        count = int(draw.poisson(amount * world.nodes / 2)) if clients.any() else 0
        mine = client * world.nodes + draw.integers(world.nodes, size=count)
        theirs = draw.choice(np.flatnonzero(clients), size=count) if count else mine[:0]
        theirs = theirs * world.nodes + draw.integers(world.nodes, size=count)
        pairs.append(np.stack([mine, theirs]))
    return np.concatenate(pairs, axis=1)
