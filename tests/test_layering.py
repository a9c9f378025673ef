"""The house plan: which rooms there are, and who may import whom."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import ROOT

import cipo_jax

PACKAGE = Path(cipo_jax.__file__).parent

# room -> the rooms it may import; a module of `run` by the table below it.
ARROWS: dict[str, set[str]] = {
    "types": set(),
    "config": {"types"},
    "policy": {"types"},
    "data": {"types", "config", "verifiers"},
    "verifiers": {"types", "config"},
    "sampling": {"types", "policy"},
    "rl": {"types", "config"},
    "run": {"types", "config", "data", "verifiers", "policy", "sampling", "rl"},
    "report": {"types", "config", "run"},
    "commands": {
        *("types", "config", "data", "verifiers", "policy", "sampling", "rl", "run", "report"),
    },
    "train": {"types", "config", "data", "policy", "rl", "run", "report"},
    "main": {"types", "config", "policy", "run"},
    "__main__": {"main"},
}
# Within `run`, a module imports only what stands in a line above its own, or its own sub-room.
RUN = (
    {"devices"},
    {"hosts", "watch", "problems", "update", "budget", "statistics", "draw"},
    {"rollout", "sampler", "sizes", "transitions"},
    {"streams", "evaluate", "measures", "parts"},
    {"first_wrong"},
    {"host_state", "records", "memory_plan"},
    {"parameters", "comparison", "proposal", "forecast"},
    {"cold_start", "verdict", "unsolved", "remat"},
    {"start", "training"},
)
# What a mode may take from other files of `commands`.
SHARED_BY_MODES = {"commands.gold"}
MOST_FLOORS = 7

HOST_ROOMS = ("types", "config", "data", "verifiers")
DEVICE_LIBRARIES = {"jax", "jaxlib", "flax", "optax", "orbax", "tensorflow", "clu", "torch"}


@functools.cache
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


@functools.cache  # not when tests are collected, which each process of the session does
def trees() -> dict[str, ast.Module]:
    return {name: ast.parse(path.read_text()) for name, path in modules().items()}


def own_imports(tree: ast.AST) -> set[str]:
    """The modules of this package that a tree imports, as in `modules`."""
    names = set()
    for name in imported(tree):
        parts = name.split(".")
        if parts[0] == "cipo_jax":
            # `from cipo_jax.types import X`: the longest prefix that is a module.
            while ".".join(parts[1:]) not in modules():
                parts.pop()
            names.add(".".join(parts[1:]))
    return names - {""}


def room(module: str) -> str:
    return module.split(".")[0]


def strangers(name: str, others: set[str], arrows: dict[str, set[str]]) -> set[str]:
    """Those of `others` that the module `name` may not import."""
    allowed = arrows[room(name)] | {room(name)}
    return {other for other in others if room(other) not in allowed}


def out_of_order(name: str, others: set[str]) -> set[str]:
    """Those of `others`, all of `run`, that stand in the line of the module `name` or below."""
    own = name.split(".")[1]

    def line_of(part: str) -> int:
        return next(i for i, line in enumerate(RUN) if part in line)

    parts = {other: other.split(".")[1] for other in others if other != "run"}
    return {o for o, part in parts.items() if part != own and line_of(part) >= line_of(own)}


def floors(arrows: dict[str, set[str]]) -> int:
    """How many rooms the longest way down passes."""

    def height(name: str) -> int:
        return 1 + max((height(below) for below in arrows[name]), default=0)

    return max(map(height, arrows))


@functools.cache
def graph() -> dict[str, set[str]]:
    """{module: what it imports of this package}."""
    return {name: own_imports(tree) for name, tree in trees().items()}


def test_the_root_holds_these_names_and_nothing_else() -> None:
    files = {"main", "__main__", "train", "types"}
    found = {p.name for p in PACKAGE.iterdir() if p.suffix == ".py" or list(p.glob("*.py"))}
    assert found == {"__init__.py", *(f"{f}.py" for f in files), *(ARROWS.keys() - files)}


@pytest.mark.parametrize("name", sorted(modules().keys() - {""}))
def test_rooms_import_what_the_table_allows(name: str) -> None:
    assert not strangers(name, graph()[name], ARROWS)


@pytest.mark.parametrize("name", [n for n in modules() if n.startswith("run.")])
def test_within_run_imports_go_up_the_table(name: str) -> None:
    assert not out_of_order(name, {other for other in graph()[name] if room(other) == "run"})


def test_a_mode_takes_nothing_from_another_mode() -> None:
    def mode(name: str) -> str:
        return ".".join(name.split(".")[:2])  # commands.study.run and others are one

    taken = {
        mode(other)
        for name, others in graph().items()
        for other in others
        if room(name) == room(other) == "commands" and mode(name) != mode(other)
    }
    assert taken == SHARED_BY_MODES


def test_there_are_few_floors() -> None:
    assert floors(ARROWS) <= MOST_FLOORS


def test_only_main_knows_train_and_only_its_short_name_imports_main() -> None:
    # main.py imports a mode's module by its name in the table.
    modes = {
        node.value.removeprefix("cipo_jax.")
        for node in ast.walk(trees()["main"])
        if isinstance(node, ast.Constant) and str(node.value).startswith("cipo_jax.train")
    }
    assert modes == {"train"}
    assert {n for n, others in graph().items() if others & {"train", "main"}} == {"__main__"}


def test_imports_have_no_cycle() -> None:
    left = dict(graph())
    while True:
        leaves = {name for name, others in left.items() if not others & left.keys()}
        if not leaves:
            break
        left = {name: others for name, others in left.items() if name not in leaves}
    assert not left


def test_modules_can_be_read_in_one_sitting() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert not {name: n for name, n in lengths.items() if n > (300 if name == "train" else 400)}


@pytest.mark.parametrize("name", [n for n in modules() if room(n) in HOST_ROOMS])
def test_host_modules_import_no_device_library(name: str) -> None:
    assert not {other.split(".")[0] for other in imported(trees()[name])} & DEVICE_LIBRARIES


def test_linen_is_imported_in_policy_only() -> None:
    users = {
        name
        for name, tree in trees().items()
        if any(i == "flax.linen" or i.startswith("flax.linen.") for i in imported(tree))
    }
    assert users and {room(name) for name in users} == {"policy"}


def test_tensorflow_comes_late_and_through_the_metrics_file_alone() -> None:
    def uses(tree: ast.AST) -> bool:
        # Of clu, the parameter overview alone does without TensorFlow.
        names = {i for i in imported(tree) if i != "clu.parameter_overview"}
        return bool({i.split(".")[0] for i in names} & {"clu", "tensorflow"})

    home = "run.records.metrics_file"
    assert {name for name, tree in trees().items() if uses(tree)} == {home}
    top_level = [n for n in trees()[home].body if isinstance(n, ast.Import | ast.ImportFrom)]
    assert not any(uses(node) for node in top_level)


def test_packages_hold_a_docstring() -> None:
    """What the room decides, and how to add to it; of the config also what config files call."""
    for name, path in modules().items():
        if path.name == "__init__.py" and name:
            text = ast.get_docstring(trees()[name]) or ""
            assert len(text.split()) > 20, f"{name}: says too little of itself"
            assert name == "config" or len(trees()[name].body) == 1, f"{name}: holds more than that"


def tree_of(readme: str) -> set[str]:
    """The modules that README's tree of the package lists, as in `modules`.

    Two spaces before a file of the root or a room, four before the modules of the room or before a
    sub-room with its modules, six before more of them.
    """
    _, _, tree = readme.partition("## Where things are")
    _, _, lines = tree.partition("\ncipo_jax/\n")
    listed, place = set[str](), ""
    for line in lines.partition("```")[0].splitlines():
        first, *rest = line.split()
        if line.startswith("    "):
            if first.endswith("/"):
                place = f"{place.split('.')[0]}.{first.removesuffix('/')}"
            else:
                rest = [first, *rest]
                if not line.startswith("      "):
                    place = place.split(".")[0]
            listed |= {f"{place}.{name}" for name in rest}
        elif first.endswith("/"):
            place = first.removesuffix("/")
        else:
            listed.add(first.removesuffix(".py"))
    return listed


def test_the_tree_in_the_readme_is_that_of_the_disk() -> None:
    packages = {name for name, path in modules().items() if path.name == "__init__.py"}
    assert tree_of((ROOT / "README.md").read_text()) == modules().keys() - packages


def test_no_module_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "helper", "common", "misc"}
    assert not {name for name in modules() if name.split(".")[-1] in drawers}


def test_host_modules_leave_jax_alone_at_run_time() -> None:
    names = [n for n in modules() if n and room(n) in (*HOST_ROOMS, "main")]
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


def test_a_broken_arrow_is_found() -> None:
    assert strangers("rl.losses", {"types", "policy.model"}, ARROWS) == {"policy.model"}
    assert strangers("data.rows", {"run.problems"}, ARROWS) == {"run.problems"}
    assert not strangers("commands.export", {"run.parts", "policy.model"}, ARROWS)
    assert out_of_order("run.update", {"run.parts"}) == {"run.parts"}
    assert out_of_order("run.start", {"run.parts", "run.training"}) == {"run.training"}
    assert not out_of_order("run.records.record", {"run.records.files", "run.measures"})
    assert floors({"a": set(), "b": {"a"}, "c": {"a", "b"}}) == 3


def test_a_tree_is_read() -> None:
    lines = (
        "cipo_jax/",
        "  a.py   x",
        "  b/     words",
        "    c d",
        "      e",
        "    f/   g h",
        "      i",
    )
    text = "\n".join(("## Where things are", "```", *lines, "```"))
    assert tree_of(text) == {"a", "b.c", "b.d", "b.e", "b.f.g", "b.f.h", "b.f.i"}


def test_linen_is_found_in_every_form() -> None:
    for source in ("import flax.linen as nn", "from flax import linen", "from flax.linen import x"):
        assert any(i.startswith("flax.linen") for i in imported(ast.parse(source)))
