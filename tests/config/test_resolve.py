"""The border: what is refused, with which words, and that every key does something."""

import ast
import dataclasses
import json
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ml_collections import ConfigDict

import cipo_jax
from cipo_jax.config import default_config
from cipo_jax.config.checks import check_training
from cipo_jax.config.keys import Config, flatten
from cipo_jax.config.resolve import provenance, resolve
from cipo_jax.run.records.files import write_json
from cipo_jax.types import CipoError

PACKAGE = Path(cipo_jax.__file__).parent
DEFAULTS = flatten(Config())
SECTIONS = {
    f.name: type(f.default)
    for f in dataclasses.fields(Config)
    if dataclasses.is_dataclass(f.default)
}
NUMBERS = [k for k, v in DEFAULTS.items() if type(v) in (int, float)]


def nested(**values: Any) -> dict[str, Any]:
    """{"section.key": value} (with __ for the dot) as nested dictionaries."""
    tree: dict[str, Any] = {}
    for name, value in values.items():
        *sections, key = name.replace("__", ".").split(".")
        branch = tree
        for section in sections:
            branch = branch.setdefault(section, {})
        branch[key] = value
    return tree


def refusal(**values: Any) -> str:
    with pytest.raises(CipoError) as refused:
        resolve(nested(**values))
    return str(refused.value)


# What comes through.


def test_defaults_are_valid_and_nothing_is_lost_on_the_way() -> None:
    assert resolve(default_config()) == resolve({}) == Config()
    assert isinstance(default_config(), ConfigDict) and default_config().is_locked


def test_given_values_replace_defaults_and_only_them() -> None:
    config = resolve(nested(num_steps=7, eval__pass_at=(1,), correction__weight=0.5))
    wanted = {"num_steps": 7, "eval.pass_at": (1,), "correction.weight": 0.5}
    assert flatten(config) == DEFAULTS | wanted


def test_an_int_stands_for_a_float_and_a_list_for_a_tuple() -> None:
    config = resolve(nested(optimizer__grad_clip=2, eval__pass_at=[1, 4]))
    assert type(config.optimizer.grad_clip) is float and config.optimizer.grad_clip == 2
    assert config.eval.pass_at == (1, 4)
    assert hash(config.eval) is not None


CONFIG_FILES = [f for f in (PACKAGE.parent / "configs").glob("*.py") if f.stem != "variants"]
VARIANTS = runpy.run_path(str(PACKAGE.parent / "configs" / "variants.py"))["VARIANTS"]


@pytest.mark.parametrize("file", sorted(CONFIG_FILES), ids=lambda f: f.stem)
def test_config_files_are_valid(file: Path) -> None:
    module = runpy.run_path(str(file))
    assert module["__doc__"], "says command, hardware, expected result"
    assert resolve(module["get_config"]()) != Config()


@pytest.mark.parametrize("file", CONFIG_FILES, ids=lambda f: f.stem)
def test_every_config_has_the_variants(file: Path) -> None:
    get_config = runpy.run_path(str(file))["get_config"]
    assert resolve(get_config("grpo")).correction.weight == 0 != resolve(get_config())


def test_the_short_form_of_the_small_config_is_valid_and_shorter() -> None:
    get_config = runpy.run_path(str(PACKAGE.parent / "configs" / "small.py"))["get_config"]
    short, whole = resolve(get_config("short")), resolve(get_config())
    assert short.num_steps < whole.num_steps
    assert (short.model, short.data.train) == (whole.model, "word_problems")
    assert resolve(get_config("grpo")).correction.weight == 0


@pytest.mark.parametrize("name", VARIANTS)
def test_variants_are_valid_changes_of_the_demo(name: str) -> None:
    get_config = runpy.run_path(str(PACKAGE.parent / "configs" / "demo.py"))["get_config"]
    assert VARIANTS[name].__doc__
    variant = resolve(get_config(name))
    assert (variant == resolve(get_config())) == (name == "cipo")


# Keys and types.


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_stpes": 3}, "config.num_stpes: unknown key; did you mean config.num_steps?"),
        (
            {"correction__wieght": 1.0},
            "config.correction.wieght: unknown key; did you mean config.correction.weight?",
        ),
        ({"checkpoint__zzz": 1}, "config.checkpoint.zzz: unknown key; known: every, keep"),
        ({"corection__weight": 1.0}, "did you mean config.correction?"),
        # A key of another section is not close to anything here.
        ({"mesh__microbatch_rows": 1}, "unknown key; known: data, fsdp, tensor, context"),
    ],
)
def test_unknown_keys_are_refused_at_any_depth(values: dict, message: str) -> None:
    assert message in refusal(**values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_steps": 3.0}, "config.num_steps: got 3.0 (float), wanted int"),
        ({"num_steps": True}, "config.num_steps: got True (bool), wanted int"),
        ({"correction__weight": "1"}, "config.correction.weight: got '1' (str), wanted float"),
        ({"correction__weight": True}, "config.correction.weight: got True (bool), wanted float"),
        ({"replay__adaptive": 1}, "config.replay.adaptive: got 1 (int), wanted bool"),
        ({"model__source": None}, "config.model.source: got None (NoneType), wanted str"),
        ({"eval__pass_at": 1}, "config.eval.pass_at: got 1 (int), wanted tuple"),
        ({"eval__pass_at": (1, "8")}, "config.eval.pass_at[1]: got '8' (str), wanted int"),
        ({"eval": 8}, "config.eval: got 8, wanted a section with its own keys"),
    ],
)
def test_ill_typed_values_are_refused(values: dict, message: str) -> None:
    assert message in refusal(**values)


# Values.


@pytest.mark.parametrize("key", NUMBERS)
def test_no_number_may_be_minus_two(key: str) -> None:
    value = type(DEFAULTS[key])(-2)
    message = refusal(**{key.replace(".", "__"): value})
    if key == "data.max_operations":  # said of the pair
        assert "data.min_operations" in message and "max_operations = -2" in message
    else:
        assert message.startswith(f"config.{key}: got {value!r}, wanted ")


@pytest.mark.parametrize("key", [k for k in NUMBERS if type(DEFAULTS[k]) is float])
@pytest.mark.parametrize("value", ["nan", "inf"])
def test_no_number_may_be_nan_or_infinite(key: str, value: str) -> None:
    message = refusal(**{key.replace(".", "__"): float(value)})
    assert f"config.{key}: got {value}, wanted " in message


@pytest.mark.parametrize(
    ("values", "key", "wanted"),
    [
        # Zero where something is counted or divided by.
        ({"sampling__temperature": -1.0}, "sampling.temperature", ">= 0"),
        ({"eval__samples": 0}, "eval.samples", "> 0"),
        ({"checkpoint__every": 0}, "checkpoint.every", "> 0"),
        ({"seed": -1}, "seed", "0 to 2**64 - 1"),
        ({"seed": 2**64}, "seed", "0 to 2**64 - 1"),
        ({"mesh__cpu_devices": 100_000}, "mesh.cpu_devices", "0 to 512"),
        # Shares.
        ({"replay__maximum": 1.5}, "replay.maximum", "[0, 1]"),
        ({"cold_start__right_share": 1.01}, "cold_start.right_share", "[0, 1]"),
        ({"optimizer__b2": 1.0}, "optimizer.b2", "[0, 1)"),
        # Choices.
        ({"model__compute_dtype": "float16"}, "model.compute_dtype", "'bfloat16'"),
        ({"model__remat": "some"}, "model.remat", "'full'"),
        ({"correction__shortage": "skip"}, "correction.shortage", "'empty'"),
        ({"algorithm__advantage_norm": "group_unshaped_std"}, "algorithm.advantage_norm", "one of"),
        ({"algorithm__correction_advantage_norm": "x"}, "algorithm.correction_advantage_norm", ""),
        ({"verifier__kind": "cod"}, "verifier.kind", "code"),
        # Contradictions.
        ({"algorithm__overlong": "soft"}, "algorithm.overlong_buffer", "overlong='soft'"),
        ({"algorithm__dual_clip": 0.5}, "algorithm.dual_clip", "> 1"),
        (
            {"algorithm__surrogate": "cispo", "algorithm__ratio": "sequence"},
            "algorithm.ratio",
            "single tokens",
        ),
        (
            {"algorithm__dual_clip": 3.0, "algorithm__surrogate": "cispo"},
            "algorithm.dual_clip",
            "0 ",
        ),
        ({"algorithm__kl_estimator": "k1"}, "algorithm.kl_estimator", "'k2', 'k3'"),
        ({"algorithm__tis_cap": 2.0}, "algorithm.tis_cap", "old_logprobs='trainer'"),
        ({"batch__minibatches": 33}, "batch.minibatches", "problems_per_step"),
        ({"optimizer__schedule": "cosine"}, "optimizer.decay_steps", "warmup_steps"),
        ({"model__num_heads": 5}, "model.num_heads", "multiple of num_kv_heads = 2"),
        ({"model__head_dim": 15}, "model.head_dim", "even"),
        ({"mesh__data": 0}, "mesh.data", "> 0, or -1"),
        ({"mesh__data": -1}, "mesh", "at most one"),
        ({"data__min_operations": 9}, "data.min_operations", "<= data.max_operations = 5"),
        ({"rollout__group_size": 1}, "rollout.group_size", ">= 2"),
        ({"correction__band_low": 0.8}, "correction.band_low", "band_high = 0.75"),
        ({"replay__initial": 0.01}, "replay.initial", "[0.05, 0.5]"),
        ({"replay__initial": 0.9}, "replay.initial", "[0.05, 0.5]"),
        ({"replay__initial": 0.0, "replay__minimum": 0.0}, "replay.initial", "adaptive=False"),
        ({"correction__replay_fraction": 0.01}, "correction.replay_fraction", "one anchor"),
        ({"correction__replay_fraction": 2.1}, "correction.replay_fraction", "a problem gives"),
        ({"correction__group_size": 1}, "correction.group_size", ">= 2"),
        ({"correction__wrong_group_multiple": 33}, "correction.wrong_group_multiple", "<= 32"),
        (
            {"correction__wrong_group_multiple": 9, "correction__from_corrections": 0.25},
            "correction.wrong_group_multiple",
            "<= 8",
        ),
        ({"correction__from_corrections": 0.01}, "correction.from_corrections", "of 32 anchors"),
        ({"correction__from_corrections": 1.0}, "correction.from_corrections", "of 32 anchors"),
        (
            {"algorithm__correction_advantage_norm": "group"},
            "correction.lambda_risk",
            "removes the penalty",
        ),
        ({"checkpoint__directory": "s3://a/b"}, "checkpoint.directory", "gs://bucket/path"),
        ({"data__prompt_template": "Solve."}, "data.prompt_template", "{question} once"),
        (
            {"data__prompt_template": "{question}{question}"},
            "data.prompt_template",
            "{question} once",
        ),
        ({"data__correction_template": "{question}"}, "data.correction_template", "{attempt} once"),
        ({"data__correction_template": "{attempt}"}, "data.correction_template", "{question} once"),
        ({"sampling__prefill_widths": (24, 0)}, "sampling.prefill_widths", "> 0"),
        ({"sampling__top_p": 0.0}, "sampling.top_p", "(0, 1]"),
        ({"sampling__min_p": 1.5}, "sampling.min_p", "[0, 1]"),
        ({"sampling__stop_strings": ("</s>", "")}, "sampling.stop_strings", "none empty"),
        ({"sampling__cache_dtype": "float8"}, "sampling.cache_dtype", "'bfloat16'"),
        ({"eval__pass_at": (0,)}, "eval.pass_at", "between 1 and eval.samples = 8"),
        ({"eval__pass_at": (1, 9)}, "eval.pass_at", "between 1 and eval.samples = 8"),
        ({"eval__corrected_attempts": 9}, "eval.corrected_attempts", "<= eval.samples = 8"),
        (
            {"eval__corrected_attempts": 0, "eval__correction_rounds": 3},
            "eval.correction_rounds",
            "nothing to correct",
        ),
        ({"eval__released_from": "2024-13-45"}, "eval.released_from", "a date such as"),
        ({"eval__released_until": "24-01-01"}, "eval.released_until", "a date such as"),
        (
            {"eval__released_from": "2025-01-01", "eval__released_until": "2024-12-31"},
            "eval.released_from",
            "up to eval.released_until = 2024-12-31",
        ),
        # Without effect.
        ({"eval__suite_problems": 5}, "eval.suite_problems", "0 without eval.suites"),
        ({"eval__suite_samples": 2}, "eval.suite_samples", "0 without eval.suites"),
        ({"eval__suite_temperature": 0.0}, "eval.suite_temperature", "-1.0 without eval.suites"),
        ({"eval__released_from": "2024-02-29"}, "eval.released_from", "'' without eval.suites"),
        ({"eval__released_until": "2024-02-29"}, "eval.released_until", "'' without eval.suites"),
        ({"algorithm__overlong_buffer": 8}, "algorithm.overlong_buffer", "overlong='keep'"),
        ({"optimizer__decay_steps": 90}, "optimizer.decay_steps", "does not decay"),
        ({"optimizer__final_share": 0.1}, "optimizer.final_share", "does not decay"),
        ({"log__on_recompile": "stop"}, "log.on_recompile", "max_compiles_after_warmup = -1"),
    ],
)
def test_values_out_of_range_or_at_odds_are_refused(values: dict, key: str, wanted: str) -> None:
    message = refusal(**values)
    assert message.startswith(f"config.{key}: got ") and wanted in message


@pytest.mark.parametrize(
    "values",
    [
        # The same values where nothing contradicts them.
        {"replay__adaptive": False, "replay__initial": 0.1},
        {"correction__weight": 0.0, "correction__replay_fraction": 0.0},
        {"correction__weight": 0.0, "correction__group_size": 1},
        {"correction__weight": 0.0, "algorithm__correction_advantage_norm": "group"},
        {"correction__lambda_risk": 0.0, "algorithm__correction_advantage_norm": "group"},
        {"mesh__data": -1, "mesh__fsdp": 1},
        {"mesh__context": -1, "mesh__fsdp": 1},
        {"correction__band_low": 0.75},
        {"eval__every": 0, "eval__corrected_attempts": 8, "eval__pass_at": ()},
        {"verifier__kind": "my_package.judge:verify"},
        {
            "eval__suites": ("livecodebench",),
            "eval__released_from": "2024-02-29",
            "eval__released_until": "2024-02-29",
        },
        {"eval__suites": ("livecodebench",), "eval__released_from": "2024-02-29"},
        {"eval__suites": ("gsm8k",), "eval__suite_problems": 5, "eval__suite_samples": 2},
        {"log__on_recompile": "stop", "log__max_compiles_after_warmup": 0},
    ],
)
def test_what_looks_like_it_and_works_is_accepted(values: dict) -> None:
    resolve(nested(**values))


# Provenance.


def test_provenance_names_the_source_of_every_value(tmp_path: Path) -> None:
    from_file = resolve(nested(num_steps=7, eval__samples=16))
    config = resolve(nested(num_steps=9, eval__samples=16, seed=0))
    values = provenance(config, from_file, {"num_steps", "seed"})
    assert list(values) == list(DEFAULTS)
    assert values["num_steps"] == {"value": 9, "source": "command line"}
    # Said on the command line, though equal to the default.
    assert values["seed"] == {"value": 0, "source": "command line"}
    assert values["eval.samples"] == {"value": 16, "source": "file"}
    rest = {
        v["source"] for k, v in values.items() if k not in {"num_steps", "seed", "eval.samples"}
    }
    assert rest == {"default"}
    write_json(tmp_path / "config.json", values)
    read = json.loads((tmp_path / "config.json").read_text())
    assert read["num_steps"] == values["num_steps"] and read.keys() == values.keys()


# Readers.


def section_names(tree: ast.AST) -> Iterator[tuple[str, str]]:
    """(name, section) for `name = <anything>.section`, also in tuples, and for parameters that are
    annotated with the section's class, `keys.Model` included."""
    by_class = {cls.__name__: section for section, cls in SECTIONS.items()}
    for node in ast.walk(tree):
        if isinstance(node, ast.arg) and node.annotation is not None:
            name = ast.unparse(node.annotation).removeprefix("keys.")
            if name in by_class:
                yield node.arg, by_class[name]
        elif isinstance(node, ast.Assign):
            target, value = node.targets[0], node.value
            pairs = [(target, value)]
            if isinstance(target, ast.Tuple) and isinstance(value, ast.Tuple):
                pairs = list(zip(target.elts, value.elts, strict=True))
            for name, source in pairs:
                if isinstance(name, ast.Name) and isinstance(source, ast.Attribute):
                    yield name.id, source.attr.removeprefix("_")


def reads(source: str) -> Iterator[str]:
    """The config keys that a file may read: `<anything>.section.key`, `name.key` for a name that
    stands for a section in this file, and `c.key` or `config.key` at the top level."""
    tree = ast.parse(source)
    names: dict[str, set[str]] = {}
    for name, section in section_names(tree):
        names.setdefault(name, set()).add(section)
    for node in ast.walk(tree):
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
            continue
        if isinstance(node.value, ast.Attribute):
            yield f"{node.value.attr.removeprefix('_')}.{node.attr}"
        elif isinstance(node.value, ast.Name):
            yield from (f"{section}.{node.attr}" for section in names.get(node.value.id, ()))
            if node.value.id in ("c", "config"):
                yield node.attr


def test_every_key_has_a_reader() -> None:
    files = [f for f in PACKAGE.rglob("*.py") if f != PACKAGE / "config" / "checks.py"]
    read = {key for file in files for key in reads(file.read_text())}
    assert not DEFAULTS.keys() - read


def test_a_reader_is_told_from_a_namesake() -> None:
    source = (
        "def f(limits: Health, b: Batch):\n"
        "    o, r = config.optimizer, c.replay\n"
        "    x(o.b1, r.adaptive, limits.patience, c.eval.every, c.seed, b2, settings.keep)\n"
        "    c.log.archive = 1\n"
    )
    found = set(reads(source)) & DEFAULTS.keys()
    assert found == {"optimizer.b1", "replay.adaptive", "health.patience", "eval.every", "seed"}


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("temperature", 0.0, "nothing would be learned"),
        ("top_k", 50, "biased"),
        ("top_p", 0.95, "biased"),
        ("min_p", 0.05, "biased"),
        ("min_new_tokens", 1, "biased"),
    ],
)
def test_training_refuses_sampling_that_biases_the_ratio(key: str, value: Any, reason: str) -> None:
    """Other modes take it."""
    config = resolve(nested(**{f"sampling__{key}": value}))
    with pytest.raises(CipoError, match=rf"config\.sampling\.{key}: got {value}, .*{reason}"):
        check_training(config)


def test_steps_to_profile_are_steps_of_the_run() -> None:
    check_training(resolve(nested(num_steps=8, log__profile_steps=(8, 9))))
    with pytest.raises(CipoError, match=r"profile_steps: got \(9, 9\), .* num_steps = 8"):
        check_training(resolve(nested(num_steps=8, log__profile_steps=(9, 9))))


def test_training_takes_what_does_not_bias() -> None:
    check_training(resolve(nested(sampling__temperature=0.7, sampling__stop_strings=("</s>",))))
