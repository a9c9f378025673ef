"""The arrows of the house plan: who may import whom."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import cipo_jax

PACKAGE = Path(cipo_jax.__file__).parent
ROOMS = ("policy", "sampling", "rl", "verifiers", "data", "config", "run", "report", "commands")
HOST_ROOMS = ("verifiers", "data")
DEVICE_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "clu", "torch"}


def modules() -> dict[str, Path]:
    """{"sampling.engine": path, ...}; a package is named by its directory."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """The dotted names that a tree imports, wherever it does so. `from a import b` gives "a.b"."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


TREES = {name: ast.parse(path.read_text()) for name, path in modules().items()}


def own_imports(tree: ast.AST) -> set[str]:
    """The modules of this package that a tree imports, as in `modules`."""
    names = set()
    for name in imported(tree):
        parts = name.split(".")
        if parts[0] == "cipo_jax":
            # `from cipo_jax.types import X`: the longest prefix that is a module.
            while ".".join(parts[1:]) not in TREES:
                parts.pop()
            names.add(".".join(parts[1:]))
    return names - {""}


def room(module: str) -> str:
    return module.split(".")[0] if module.split(".")[0] in ROOMS else ""


GRAPH = {name: own_imports(tree) for name, tree in TREES.items()}


def test_the_rooms_are_all_there() -> None:
    assert {room(name) for name in TREES} == {*ROOMS, ""}
    assert "policy.model" in GRAPH["sampling.engine"]
    assert GRAPH["main"] >= {"config", "types", "train"}


@pytest.mark.parametrize("name", [name for name in TREES if room(name)])
def test_rooms_import_types_and_themselves(name: str) -> None:
    allowed = {room(name)} | ({"policy"} if room(name) == "sampling" else set())
    strangers = {other for other in GRAPH[name] if other != "types" and room(other) not in allowed}
    assert not strangers


def test_types_and_config_import_nothing_of_the_package() -> None:
    assert GRAPH["types"] == GRAPH["config"] == set()


def test_only_main_imports_train_and_nothing_imports_main() -> None:
    assert {name for name, others in GRAPH.items() if "train" in others} == {"main"}
    assert not {name for name, others in GRAPH.items() if "main" in others}


def test_imports_have_no_cycle() -> None:
    left = dict(GRAPH)
    while True:
        leaves = {name for name, others in left.items() if not others & left.keys()}
        if not leaves:
            break
        left = {name: others for name, others in left.items() if name not in leaves}
    assert not left


@pytest.mark.parametrize(
    "name", [name for name in TREES if room(name) in HOST_ROOMS or name in ("types", "config")]
)
def test_host_modules_import_no_device_library(name: str) -> None:
    assert not {other.split(".")[0] for other in imported(TREES[name])} & DEVICE_LIBRARIES


def test_linen_is_imported_in_policy_only() -> None:
    users = {
        name
        for name, tree in TREES.items()
        if any(i == "flax.linen" or i.startswith("flax.linen.") for i in imported(tree))
    }
    assert users and {room(name) for name in users} == {"policy"}


def test_tensorflow_comes_late_and_through_metrics_alone() -> None:
    def uses(tree: ast.AST) -> bool:
        # Of clu, the parameter overview alone does without TensorFlow.
        names = {i for i in imported(tree) if i != "clu.parameter_overview"}
        return bool({i.split(".")[0] for i in names} & {"clu", "tensorflow"})

    assert {name for name, tree in TREES.items() if uses(tree)} == {"metrics"}
    top_level = [n for n in TREES["metrics"].body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any(uses(node) for node in top_level)


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not {name for name in TREES if name.split(".")[-1] in drawers}


def test_host_modules_leave_jax_alone_at_run_time() -> None:
    names = [n for n in TREES if room(n) in HOST_ROOMS or n in ("types", "config", "main")]
    program = (
        "import importlib, sys\n"
        f"for name in {names!r}:\n"
        "    importlib.import_module('cipo_jax.' + name)\n"
        f"    print(name, *sorted({DEVICE_LIBRARIES!r} & set(sys.modules)))\n"
    )
    lines = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert lines == names


# The checks themselves.


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import cipo_jax.policy.model as m", {"policy.model"}),
        ("from cipo_jax.policy import model, sharding", {"policy.model", "policy.sharding"}),
        ("from cipo_jax.policy.model import Params", {"policy.model"}),
        ("from cipo_jax import train", {"train"}),
        ("def f():\n    from cipo_jax.rl.losses import kl_k3", {"rl.losses"}),
        ("if TYPE_CHECKING:\n    import cipo_jax.types", {"types"}),
        ("import jax\nfrom os import path", set()),
    ],
)
def test_imports_are_found_in_every_form(source: str, found: set[str]) -> None:
    assert own_imports(ast.parse(source)) == found


def test_linen_is_found_in_every_form() -> None:
    for source in ("import flax.linen as nn", "from flax import linen", "from flax.linen import x"):
        assert any(i.startswith("flax.linen") for i in imported(ast.parse(source)))
