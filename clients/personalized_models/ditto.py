"""Ditto: a personalized model near the FedAvg model, which is trained beside it."""

from clients.method_hooks import LocalRound
from clients.personalized_models.local_model import Values
from clients.personalized_models.mr_mtl import MRMTLClient

__all__ = ["DittoClient"]


class DittoClient(MRMTLClient):
    """Ditto (Li et al. 2021, Algorithm 1): local models around the FedAvg model.

    The local model is trained towards the shared one as it was received, which stays put during
    the round; then the shared one is trained as FedAvg does, on the same batches, and sent. The
    local model never leaves the device.
    """

    sends_own = False
    takes_server_mu = True

    def train_locally(self, current: LocalRound) -> tuple[float, Values]:
        """Train, and say what is kept; as :meth:`PersonalClient.train_locally`."""
        received = self._values()
        _, kept = super().train_locally(current)
        self._put(received)
        with self.random(current.number, "train"):
            return self.train_model(self.proximal_terms()), kept
