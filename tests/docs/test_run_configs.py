"""The run configs in commands of README and docs are valid, also where the command is not run."""

import re

import pytest
from flwr.common.config import parse_config_args

from pfl_flower.config.run_config import RunConfig
from tests.docs.blocks import ROOT, blocks_of, pages

_CONFIG = re.compile(r"--run-config\s+(?:\\\n\s*)?'([^']*)'")


def _cases():
    return [
        pytest.param(config, id=f"{page.relative_to(ROOT)}:{block.line}:{config[:30]}")
        for page in pages()
        for block in blocks_of(page)
        if block.language == "bash"
        for config in _CONFIG.findall(block.text)
    ]


@pytest.mark.parametrize("config", _cases())
def test_a_run_config_is_valid(config):
    RunConfig.parse(parse_config_args([" ".join(config.split())]))
