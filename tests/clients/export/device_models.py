"""What a device exports after a run, and what the exported model predicts."""

import csv

import numpy as np

from clients.__main__ import main
from pfl_flower.data import federation


def exported(tmp_path, client="client-1"):
    target = tmp_path / "model.safetensors"
    command = ["export", "--personal-dir", str(tmp_path / "device"), "--out", str(target)]
    assert main([*command, "--client", client]) == 0
    return target


def predicted(tmp_path, model, inputs):
    np.savez(tmp_path / "inputs.npz", x=inputs)
    out = tmp_path / "predictions.csv"
    paths = ["--model", str(model), "--inputs", str(tmp_path / "inputs.npz"), "--out", str(out)]
    assert main(["predict", *paths]) == 0
    with out.open() as stream:
        return list(csv.DictReader(stream))


def own_test(run, client=1):
    """The client's test examples as they are before anything is done to them."""
    return federation(run.config.data, 3)._load(client).test
