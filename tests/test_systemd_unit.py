"""What is to be copied onto a device is right."""

import shlex
from pathlib import Path

from flwr.common.config import parse_config_args
from flwr.supernode.cli.flower_supernode import _parse_args_run_supernode

from pfl_flower.client.node_config import node_of
from pfl_flower.client_app import make_app
from pfl_flower.grid import InProcessGrid

SERVICE = Path(__file__).parents[1] / "examples" / "deploy" / "supernode.service"


def test_the_service_starts_a_supernode_that_finds_its_programs_and_says_who_it_is():
    lines = SERVICE.read_text().replace("\\\n", " ").splitlines()
    settings = [tuple(line.split("=", 1)) for line in lines if "=" in line and line[0] != "#"]
    program, *words = shlex.split(dict(settings)["ExecStart"])
    options = _parse_args_run_supernode().parse_args(words)
    assert not options.insecure
    environment = dict(v.split("=", 1) for key, v in settings if key == "Environment")
    assert str(Path(program).parent) in environment["PATH"].split(":")
    node_config = parse_config_args([options.node_config])
    (context,) = InProcessGrid(make_app({}), 1).contexts.values()
    context.node_config.clear()
    context.node_config.update(node_config)
    assert node_of(context).name == "ward-7"
    state = Path("/var/lib") / dict(settings)["StateDirectory"]
    assert Path(str(node_config["personal-dir"])).is_relative_to(state)
    assert Path(environment["FLWR_HOME"]).is_relative_to(state)
