"""What households say, as arrays: the data functions of the study ``assistants``."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from simulations.studies.assistants_households import Language, household, read_corpus
from simulations.studies.assistants_network import embeddings, lower_states

Arrays = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Households:
    """All households of one kind of language; its methods are values of the run key ``dataset``.

    Parameters
    ----------
    language : Language
        How far apart they speak.
    """

    language: Language

    def states(self, partition_id: int, num_partitions: int, seed: int) -> Arrays:
        """Return a household's texts as what the lower layers make of them, and their names."""
        return arrays_of(self.language, partition_id, seed)

    def embeddings(self, partition_id: int, num_partitions: int, seed: int) -> Arrays:
        """Return a household's texts as embeddings, and their names."""
        arrays = arrays_of(self.language, partition_id, seed)
        return {name: embeddings(a) if name[0] == "x" else a for name, a in arrays.items()}


@lru_cache(maxsize=64)
def arrays_of(language: Language, number: int, seed: int) -> Arrays:
    """Return the arrays of :meth:`Households.states`, made once for all arms of a seed."""
    found = household(read_corpus(), language, number, seed)
    return {
        "x_train": lower_states([text for text, _ in found.train]),
        "y_train": np.array([name for _, name in found.train]),
        "x_test": lower_states([text for text, _ in found.test]),
        "y_test": np.array([name for _, name in found.test]),
    }


ALIKE = Households(Language(words=0))
SOME_WORDS = Households(Language(words=40))
MANY_WORDS = Households(Language(words=120))

states_0, embeddings_0 = ALIKE.states, ALIKE.embeddings
states_40, embeddings_40 = SOME_WORDS.states, SOME_WORDS.embeddings
states_120, embeddings_120 = MANY_WORDS.states, MANY_WORDS.embeddings
