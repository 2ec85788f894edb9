"""The issue's measurement: what LoRA over a BERT sends and keeps. Needs transformers and peft."""

import pytest
import torch

from clients import Scope
from clients.entries import entries_of
from clients.scopes import MOVING, names_of
from pfl_flower.engines import simulate
from pfl_flower.model_setup import model_setup
from pfl_flower.results.files import summarize

pytestmark = pytest.mark.integration
MODULE = "tests.pfl_flower.methods.lora_bert"
CONFIG = {
    "dataset": f"{MODULE}:texts",
    "model": f"{MODULE}:LoraBert",
    "baselines": "",
    "local-steps": 1,
    "batch-size": 4,
    "num-server-rounds": 2,
}
ADAPTERS = "*.lora_A,*.lora_B,*.modules_to_save"
RULES = {
    "fedavg": {},
    "fedper": {"personal": ADAPTERS},
    "ditto": {},
    "local": {},
    "fedit": {},
    "ffa-lora": {},
    "fedsa-lora": {},
    "feddpa": {},
}


@pytest.fixture(autouse=True)
def libraries():
    pytest.importorskip("transformers")
    pytest.importorskip("peft")


@pytest.mark.parametrize("method", RULES)
def test_what_is_sent_and_kept_is_what_is_trained(method, tmp_path):
    config = CONFIG | {"method": method, "personal-dir": str(tmp_path)} | RULES[method]
    (run,) = simulate(config, 3)
    assert not any(report.dropped for report in run.reports)
    setup = model_setup(run.config)
    frozen = names_of(setup.scopes, Scope.FROZEN)
    assert sum(setup.initial[name].numel() for name in frozen) > 9_900_000
    travels = sum(setup.initial[name].nbytes for name in setup.shared_names)
    kept = sum(setup.initial[name].nbytes for name in setup.personal_names)
    moving = sum(setup.initial[name].nbytes for name in names_of(setup.scopes, *MOVING))
    if method in ("fedavg", "ditto"):
        assert travels == moving
    found = summarize(run)["bytes_per_round"]
    assert 2 * travels <= found["down"] <= 1.02 * 2 * travels
    assert travels <= found["up"] <= 1.02 * travels
    files = {path.name: path.stat().st_size for path in tmp_path.iterdir()}
    if method != "fedavg":
        assert kept <= files["client-0.safetensors"] <= 1.05 * kept + 4096
    entries = entries_of(setup.model)
    assert all(torch.equal(entries[name], setup.initial[name]) for name in frozen)
