"""A step and a run on paper."""

import dataclasses
from typing import Any

import pytest

from cipo_jax.config import default_config
from cipo_jax.config.keys import Config
from cipo_jax.config.resolve import resolve
from cipo_jax.run.devices.chips import CHIPS
from cipo_jax.run.devices.topology import paper_devices
from cipo_jax.run.forecast.assumptions import SOURCES, Assumptions, assumed
from cipo_jax.run.forecast.machine import machine_of
from cipo_jax.run.forecast.timeline import Timeline, make_timeline
from cipo_jax.run.forecast.wording import lines
from cipo_jax.run.memory_plan import open_shapes
from cipo_jax.types import CipoError

SHAPE: dict[str, Any] = {
    "vocab_size": 320,
    "num_layers": 2,
    "d_model": 256,
    "num_heads": 16,
    "num_kv_heads": 16,
    "head_dim": 16,
    "mlp_dim": 512,
}
IDEAL = Assumptions(
    length_sigma=0.0,
    products=1.0,
    memory=1.0,
    links=1.0,
    exchange_seconds=0.0,
    turn_seconds=0.0,
    judge_seconds=1e-9,
    hanging=0.0,
    host_seconds=0.0,
)


def config(**changes: Any) -> Config:
    raw = default_config()
    raw.data.tokenizer, raw.model.compute_dtype = "bytes", "bfloat16"
    raw.data.max_prompt_tokens, raw.data.max_completion_tokens = 64, 64
    raw.data.max_attempt_tokens = 64
    raw.rollout.problems_per_step, raw.rollout.group_size = 16, 4
    raw.correction.replay_fraction, raw.correction.group_size = 0.5, 4
    raw.num_steps, raw.eval.every, raw.data.eval_problems = 10, 5, 16
    raw.sampling.page_size = raw.sampling.chunk = 16
    raw.update_from_flattened_dict(changes)
    return resolve(raw)


def timeline(
    topology: str = "v5e:2x2", assumptions: Assumptions = IDEAL, mean: float = 32, **changes: Any
) -> Timeline:
    shapes = open_shapes(config(**changes), paper_devices(topology), SHAPE)
    return make_timeline(shapes, assumptions, mean)


def test_a_step_is_its_parts_and_a_run_its_steps() -> None:
    found = timeline(assumptions=Assumptions())
    assert sum(found.bounds.values()) == pytest.approx(found.step)
    assert found.corrections is not None and found.corrections.seconds > 0
    # Before the first step, after the fifth, and at the end.
    assert (found.steps, found.evaluations) == (10, 3)
    assert found.hours == pytest.approx((10 * found.step + 3 * found.evaluation) / 3600)


def test_a_budget_of_tokens_ends_the_run() -> None:
    each = (16 * 4 + 8 * 4) * 32
    assert timeline(max_sampled_tokens=3 * each - 1).steps == 3


def test_the_update_is_its_flops_at_the_stated_part_of_peak() -> None:
    """With equal lengths, of the layers nothing repeated, and everything else infinitely fast. The
    head's logits are computed again always; they are part `head` of a forward pass."""
    fast = dataclasses.replace(IDEAL, products=0.5, memory=1e12, links=1e12)
    changes: dict[str, Any] = {"model.remat": "none", "correction.weight": 0.0}
    found = timeline(assumptions=fast, **changes).update
    assert found.tokens == 64 * (16 + 32)
    head = 3 * 2 * 256 * 320 * found.tokens / found.flops
    assert found.mfu == pytest.approx(0.5 * found.fill * 3 / (3 + head))
    again = timeline(assumptions=fast, **changes | {"model.remat": "full"}).update
    # The last products of the layers are not computed again.
    assert 0.5 * 3 / 4 < again.mfu / found.fill < found.mfu / found.fill
    assert again.flops == found.flops
    scored = timeline(assumptions=fast, **changes | {"algorithm.kl_coef": 0.1}).update
    assert scored.seconds == pytest.approx(found.seconds * (4 + head) / (3 + head))


def test_slow_links_bound_the_update() -> None:
    slow = timeline(assumptions=dataclasses.replace(IDEAL, links=1e-6))
    assert next(iter(slow.bounds)) == "the update's weights and gradients over the links"
    assert "products" not in slow.update.parts
    # Replicas gather nothing, but sum their gradients: twice three quarters of it, instead of three
    # passes of three quarters of the weights.
    replicas = {"mesh.data": 4, "mesh.fsdp": 1}
    apart = timeline(assumptions=dataclasses.replace(IDEAL, links=1e-6), **replicas).update
    assert apart.parts["links"] == pytest.approx(slow.update.parts["links"] * 2 / 3)


def test_nodes_of_gpus_are_linked_by_a_network() -> None:
    one, two = (machine_of(paper_devices(name), 25e9) for name in ("h100:8", "h100:8x2"))
    assert (one.links, two.links) == (CHIPS[one.kind].links, 25e9)
    assert (two.chips, two.hosts) == (16, 2)
    assert machine_of(paper_devices("v5e:4x4"), 25e9).links == CHIPS["TPU v5e"].links


def test_hanging_verdicts_are_waited_for() -> None:
    hang = dataclasses.replace(IDEAL, hanging=1.0)
    found = timeline(assumptions=hang, **{"verifier.workers": 64, "verifier.timeout_seconds": 7.0})
    assert found.verification == pytest.approx(2 * 7.0, rel=0.01)
    queued = timeline(assumptions=hang, **{"verifier.workers": 8, "verifier.timeout_seconds": 7.0})
    # 64 attempts and 32 corrections, eight at a time.
    assert queued.verification == pytest.approx((8 + 4) * 7.0, rel=0.01)
    assert next(iter(queued.bounds)) == "verdicts"


def test_hosts_share_prompts_out() -> None:
    """Where reading weights is all, twice the hosts take half as long."""
    sizes = {"sampling.slots": 16, "sampling.tensor": 4}
    one, two = (timeline(name, **sizes).attempts for name in ("v5e:2x2", "v5e:4x2"))
    assert one.parts["weights"] == pytest.approx(2 * two.parts["weights"] / 2, rel=0.01)
    sizes["sampling.slots"] = 64
    one, two = (timeline(name, **sizes).attempts for name in ("v5e:2x2", "v5e:4x2"))
    assert one.parts["cache"] == pytest.approx(2 * two.parts["cache"], rel=0.01)


def test_every_assumption_has_a_source_and_is_printed() -> None:
    assert SOURCES.keys() == {field.name for field in dataclasses.fields(Assumptions)}
    rows = dict(assumed(Assumptions()))
    assert rows["memory"].startswith("0.6 of bandwidth: ") and "RESULTS.md" in rows["memory"]


def test_lines_are_of_what_was_found() -> None:
    found = timeline(assumptions=Assumptions())
    rows = dict(lines(found))
    assert rows["devices"] == "4 x TPU v5 lite on 1 host(s)"
    assert rows["the run"].startswith(f"{found.hours:,.1f} hours: 10 steps, 3 evaluations; bound")
    assert rows["the run"].endswith(next(iter(found.bounds)))


def test_devices_of_unknown_speed_are_refused() -> None:
    (device,) = paper_devices("h100:1")
    with pytest.raises(CipoError, match="the speed of 'TPU v99' is not known; known are .*TPU v5p"):
        machine_of([dataclasses.replace(device, device_kind="TPU v99")], 1e9)
