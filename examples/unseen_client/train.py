"""Train the hypernetwork on the wards that are there, and keep it in a file."""

import json
import logging
from pathlib import Path

from wards import TRAINED, app, metadata, network

from pfl_flower.grid import InProcessGrid
from strategies import PFedHN
from strategies.arrays import to_record

if __name__ == "__main__":
    arrays = {name: tensor.numpy() for name, tensor in network().state_dict().items()}
    strategy = PFedHN(parameter_names=list(arrays))
    logging.getLogger("flwr").setLevel(logging.WARNING)
    strategy.start(InProcessGrid(app, TRAINED), to_record(arrays), num_rounds=60)
    assert strategy.network is not None
    Path("hypernetwork.safetensors").write_bytes(strategy.network.to_bytes())
    print("trained on", json.dumps(metadata(0)), "and", TRAINED - 1, "other wards")
