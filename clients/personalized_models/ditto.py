"""Ditto: a personalized model near the FedAvg model, which is trained beside it."""

from clients.personalized_models.local_model import Values
from clients.personalized_models.mr_mtl import MRMTLClient
from clients.state.personal_state import Snapshot

__all__ = ["DittoClient"]


class DittoClient(MRMTLClient):
    """Ditto (Li et al. 2021, Algorithm 1): own models around the FedAvg model.

    The own model is trained towards the shared one as it was received, which stays put during
    the round; then the shared one is trained as FedAvg does, on the same batches, and sent. The
    own model never leaves the device.
    """

    sends_own = False

    def _train(self, server_round: int, before: Snapshot | None) -> tuple[float, Values]:
        received = self._values()
        _, kept = super()._train(server_round, before)
        self._put(received)
        with self._random(server_round, "train"):
            return self._train_model(self.proximal_terms()), kept
