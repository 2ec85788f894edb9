"""The house keeps its shape: imports run one way, and nothing unpickles but one converter."""

import ast
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FLOORS = ["strategies", "clients", "pfl_flower", "simulations"]
CONVERTER = ROOT / "pfl_flower" / "data" / "readers" / "pfllib.py"
WITH_TORCH = ROOT / "strategies" / "hypernetwork"
"""The strategy that trains a network on the server, and therefore needs torch."""
GRID = ROOT / "pfl_flower" / "grid.py"
"""The one file that touches private modules of Flower."""
PUBLIC = {"app", "client", "clientapp", "common", "serverapp", "simulation"}
"""The packages of Flower that everybody may use."""
FILES = [path for floor in FLOORS for path in sorted((ROOT / floor).rglob("*.py"))]
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def modules_in(path: Path) -> set[str]:
    """The full names of all modules that a file imports, anywhere in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            names.add(node.module or "")
    return names


def imported(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports, anywhere in it."""
    return {name.split(".")[0] for name in modules_in(path)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_one_way(path):
    floor = FLOORS.index(path.relative_to(ROOT).parts[0])
    names = imported(path)
    assert not names & set(FLOORS[floor + 1 :])
    picklers = names & {"pickle", "dill", "cloudpickle", "joblib"}
    assert picklers == ({"pickle"} if path == CONVERTER else set())
    if FLOORS[floor] == "strategies" and path.parent != WITH_TORCH:
        assert not names & {"torch", "torchvision"}


@pytest.mark.integration
def test_the_data_sets_and_studies_are_unknown_below():
    command = "import sys, strategies, clients; print('pfl_flower' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"


def test_the_converter_that_unpickles_is_run_by_hand_only():
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names = {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            else:
                continue
            assert "pfl_flower.data.readers.pfllib" not in names, path


def test_one_file_touches_private_modules_of_flower():
    private = {
        path
        for path in FILES
        for name in modules_in(path)
        if name.startswith("flwr.") and name.split(".")[1] not in PUBLIC
    }
    assert private == {GRID}


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_module_imports_another_one(path):
    tests = {other.stem for other in TESTS if other.name.startswith("test_")}
    assert not {name for name in modules_in(path) if name.split(".")[-1] in tests}


def declared(*extras: str) -> set[str]:
    """The distributions that the project asks for, by their normalized names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"]]
    for extra in extras:
        wanted += project["optional-dependencies"][extra]
    return {re.split(r"[^\w.-]", words)[0].lower().replace("_", "-") for words in wanted}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("paths", "extras"),
    [(FILES, ("metis", "tensorboard", "timm", "hf")), (TESTS, ("test", "hf"))],
    ids=["package", "tests"],
)
def test_all_imported_distributions_are_declared(paths, extras):
    names = set().union(*map(imported, paths)) - set(sys.stdlib_module_names)
    names -= {*FLOORS, "tests"}
    known, asked = packages_distributions(), declared(*extras)
    missing = {
        name
        for name in names
        if not {d.lower().replace("_", "-") for d in known.get(name, [name])} & asked
    }
    assert not missing
