"""Generated social networks: communities in which the same features mean other things.

Everybody has a hidden kind, which features hint at and friends share. What a kind is called is up
to the community, so that one model for everybody must be wrong for some, while the way from the
features of a node and of its friends to its kind is the same everywhere.
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
"""How many renamings are drawn for a community, of which the best is taken."""


@dataclass(frozen=True)
class SocialWorld:
    """What social networks are drawn from.

    Attributes
    ----------
    communities : client i of n is in community ``i * communities // n``
    nodes : of each client
    classes : number of kinds
    features : of a node: its kind's prototype plus standard normal noise
    signal : deviation of the prototypes' entries. At .4 a logistic regression on the features
        alone is right for three nodes in ten after 10 labelled nodes, and for six after 60
    rotated : how many kinds each community, but the first, calls by one another's names
    inside, outside : probability that two nodes of a client are connected, of the same kind and
        of different ones, where both have mean degree factors. Their ratio is the homophily
    spread : deviation of the logarithm of the degree factors (log-normal, of mean 1); 0 for the
        plain stochastic block model
    largest : no degree factor is above it, before they are brought to mean 1
    across : mean number of a node's connections with other clients of its community
    beyond : mean number of a node's connections with other communities
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
        """Return the community of a client."""
        return client * self.communities // num_clients


def social(request: SourceRequest) -> Examples:
    """Return the nodes of all clients' networks in the standard :class:`SocialWorld`."""
    return grow(SocialWorld(), request.seed, request.num_clients)


def grow(world: SocialWorld, seed: int, num_clients: int) -> Examples:
    """Draw a network for every client, and sparse connections between them.

    Inside a client it is a degree-corrected stochastic block model (Karrer and Newman 2011,
    arXiv:1008.3926, section II) whose blocks are the hidden kinds: nodes ``u`` and ``v`` are
    connected with probability ``p * f_u * f_v``, at most 1, where ``p`` is ``inside`` or
    ``outside``. Classes are the kinds under the names of the community.

    Parameters
    ----------
    world : what is drawn from
    seed : decides everything
    num_clients : each is a natural client with ``world.nodes`` nodes
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
        pairs.append(_strangers(world, client, community, draw))
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
    """Return what every community calls every kind, ``(communities, classes)``.

    The first calls them by their numbers. Every other passes the names of some kinds, as many as
    ``rotated``, around in a ring. Which ones, in what order, is drawn so that any two communities
    disagree on as many kinds as the first does with all others, as nearly as it goes.
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
    """Return the connections ``(2, P)`` among nodes of these kinds, the smaller number first."""
    factors = degree_factors(world, len(kinds), draw)
    pairs = []
    # A row at a time, because a square of all pairs of a large network would not fit in memory.
    for node in range(len(kinds) - 1):
        others = slice(node + 1, None)
        chance = np.where(kinds[others] == kinds[node], world.inside, world.outside)
        chance = chance * factors[node] * factors[others]
        met = np.flatnonzero(draw.random(len(chance)) < chance) + node + 1
        pairs.append(np.stack([np.full_like(met, node), met]))
    return np.concatenate([np.empty((2, 0), dtype=np.int64), *pairs], axis=1)


def degree_factors(world: SocialWorld, count: int, draw: np.random.Generator) -> Floats:
    """Return how sociable each of ``count`` nodes is: log-normal, of mean 1."""
    factors = np.exp(world.spread * draw.normal(size=count)).clip(max=world.largest)
    scaled: Floats = factors / factors.mean()
    return scaled


def _strangers(world: SocialWorld, client: int, community: Ints, draw: np.random.Generator) -> Ints:
    """Return connections ``(2, P)`` of a client's nodes with those of others, drawn evenly."""
    same = community == community[client]
    others = np.arange(len(community)) != client
    pairs = [np.empty((2, 0), dtype=np.int64)]
    for amount, clients in ((world.across, same & others), (world.beyond, ~same)):
        # Half of them, because the others draw theirs, too.
        count = int(draw.poisson(amount * world.nodes / 2)) if clients.any() else 0
        mine = client * world.nodes + draw.integers(world.nodes, size=count)
        theirs = draw.choice(np.flatnonzero(clients), size=count) if count else mine[:0]
        theirs = theirs * world.nodes + draw.integers(world.nodes, size=count)
        pairs.append(np.stack([mine, theirs]))
    return np.concatenate(pairs, axis=1)
