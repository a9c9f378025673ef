"""The kernels against the reference: splash attention in Pallas' interpret mode, what is handed to
cuDNN through JAX's own implementation, and which of them is chosen."""

import dataclasses
import importlib.util
import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_models
from forms import fast

from cipo_jax.policy import attention, attention_kernels, context, model, sharding, splash_attention

B, T, N, K = 2, 256, 4, 2
REAL = 250  # tokens of a row; the rest is padding


def rows() -> tuple[np.ndarray, np.ndarray]:
    """positions, segments [B, T]: two packed sequences and padding; left padding, one sequence."""
    column = np.arange(T, dtype=np.int32)
    positions = np.stack([np.where(column < 90, column, column - 90), column - (T - REAL)])
    segments = np.stack([np.where(column < 90, 1, 2), np.ones(T, np.int32)])
    padding = np.stack([column >= REAL, column < T - REAL])
    return np.where(padding, 0, positions), np.where(padding, 0, segments).astype(np.int32)


def random_qkv(H: int, dtype: str = "float32") -> tuple[jax.Array, ...]:
    keys = jax.random.split(jax.random.key(0), 3)
    shapes = ((B, T, N, H), (B, T, K, H), (B, T, K, H))
    q, k, v = (jax.random.normal(*args) for args in zip(keys, shapes, strict=True))
    return tuple(x.astype(dtype) for x in (3 * q, k, v))


def out_and_grads(function, H: int) -> list[np.ndarray]:
    """Output and gradients for q, k, v; padding has no part in either."""
    positions, segments = rows()
    real = (segments > 0)[..., None, None]
    weights = np.random.default_rng(1).standard_normal((B, T, N, H)) * real

    def score(q, k, v):
        out = function(q, k, v, positions, segments)
        return jnp.sum(out * weights), jnp.where(real, out, 0)

    program = jax.jit(jax.value_and_grad(score, argnums=(0, 1, 2), has_aux=True))
    (_, out), grads = program(*random_qkv(H))
    return jax.device_get([out, *grads])


def reference(**options):
    return lambda q, k, v, p, s: attention.attend(q, k, v, p, s, p, s, **options)


def assert_close(got: list[np.ndarray], wanted: list[np.ndarray], tolerance: float = 2e-5) -> None:
    for a, b in zip(got, wanted, strict=True):
        assert np.abs(b).max() > 0.5
        np.testing.assert_allclose(a, b, atol=tolerance * max(1, np.abs(b).max()))


@pytest.fixture
def tpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if on a TPU, with kernels interpreted."""
    monkeypatch.setattr(attention_kernels, "platform", lambda: "tpu")
    monkeypatch.setattr(attention_kernels, "INTERPRET", True)


@pytest.mark.parametrize(
    ("H", "window", "soft_cap"),
    fast([(64, None, None), (128, 40, None), (64, 150, 3.0)], 1, arguments=3),
)
def test_splash_equals_the_reference(H: int, window: int | None, soft_cap) -> None:
    options = {"scale": 0.1, "window": window, "soft_cap": soft_cap}

    def kernel(*args):
        return splash_attention.splash_attention(*args, **options, interpret=True)

    got = out_and_grads(kernel, H)
    assert_close(got, out_and_grads(reference(**options), H))


@pytest.mark.parametrize("window", [None, 40])
def test_what_cudnn_is_given_equals_the_reference(window: int | None) -> None:
    options = {"scale": 0.1, "window": window, "soft_cap": None}

    def kernel(*args):
        return attention_kernels.cudnn_attention(*args, **options, implementation="xla")

    assert_close(out_and_grads(kernel, 64), out_and_grads(reference(**options), 64))


@pytest.mark.parametrize("window", fast([None, 40], 1))
def test_window_of_the_layer_chooses_the_branch(tpu, window: int | None) -> None:
    def layer(*args):
        traced = jnp.asarray(attention.window_size(window))
        return attention_kernels.attend_rows(*args, scale=0.1, window=traced, windows=(40, None))

    got = out_and_grads(layer, 64)
    assert_close(got, out_and_grads(reference(scale=0.1, window=window), 64))


@pytest.mark.parametrize(
    ("sizes", "splits"),
    fast([((1, 2, 2), 1), ((1, 1, 4), 1), ((1, 1, 1, 2), 2), ((1, 2, 2, 2), 2)], -1, arguments=2),
)
def test_kernel_on_a_mesh_equals_the_reference(tpu, sizes: tuple[int, ...], splits: int) -> None:
    """With (1, 1, 4) the two key/value heads do not divide the tensor axis."""
    mesh = sharding.make_mesh(*sizes, devices=jax.devices()[: int(np.prod(sizes))])
    axes = {"embed": 8, "heads": N, "kv_heads": K, "mlp": 8, "vocab": 8}
    rules = sharding.logical_rules(mesh, axes)
    options = {"scale": 0.1, "window": 100}

    def kernel(*args):
        split = [context.to_devices(x, splits) for x in args]
        return context.to_rows(
            attention_kernels.attend_rows(*split, **options, rules=rules), splits
        )

    with jax.set_mesh(mesh):
        got = out_and_grads(kernel, 64)
    assert_close(got, out_and_grads(reference(**options), 64))


# Which one is chosen.


@pytest.mark.parametrize(
    ("platform", "change", "reason"),
    [
        ("tpu", {"T": 200}, "rows have 200 tokens, no multiple of 128"),
        ("tpu", {"H": 48}, "head_dim is 48, no multiple of 64"),
        ("gpu", {"dtype": "float32"}, "the compute dtype is float32"),
        ("gpu", {"soft_cap": 5.0}, "scores have a soft-cap"),
        ("gpu", {"H": 256}, "head_dim is 256"),
        ("gpu", {"T": 258}, "its mask of 258 x 258 tokens is larger than the row's queries"),
        ("old gpu", {"T": 12288}, "its mask of 12288 x 12288 tokens is larger"),
        ("old gpu", {"soft_cap": 5.0}, "compute capability is 7.0"),
    ],
)
def test_fallback_names_its_reason_once(platform, change, reason, monkeypatch, caplog) -> None:
    """On GPUs the fallback of cuDNN is Triton, and only on old ones the reference."""
    if platform == "old gpu":
        platform, here = "gpu", types.SimpleNamespace(compute_capability="7.0")
        monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
        monkeypatch.setattr(jax, "local_devices", lambda: [here])
        kernel = False
    else:
        kernel = platform == "gpu"
    monkeypatch.setattr(attention_kernels, "platform", lambda: platform)
    attention_kernels._log_once.cache_clear()
    case = {"T": 256, "H": 64, "dtype": "bfloat16", "soft_cap": None} | change
    heads = [jax.ShapeDtypeStruct((1, case["T"], n, case["H"]), case["dtype"]) for n in (N, K, K)]
    row = jax.ShapeDtypeStruct((1, case["T"]), jnp.int32)

    def attend(*args):
        return attention_kernels.attend_rows(*args, scale=0.1, soft_cap=case["soft_cap"])

    for _ in range(2):
        jaxpr = str(jax.make_jaxpr(attend)(*heads, row, row))
    assert ("pallas_call" in jaxpr) == kernel and "cudnn" not in jaxpr
    assert [r.message for r in caplog.records if reason in r.message] == [
        r.message for r in caplog.records
    ]
    assert len(caplog.records) == 1 and f"attention on {platform}" in caplog.text


@pytest.mark.parametrize(
    ("platform", "tokens", "reason"),
    [
        ("gpu", 256, "rows are split by tokens (mesh.context), which no GPU kernel takes"),
        ("tpu", 384, "a device has 192 tokens of a row, no multiple of 128"),
    ],
)
def test_split_rows_without_a_kernel_name_the_reason(
    platform: str, tokens: int, reason: str, monkeypatch, caplog
) -> None:
    monkeypatch.setattr(attention_kernels, "platform", lambda: platform)
    attention_kernels._log_once.cache_clear()
    mesh = sharding.make_mesh(1, 1, 1, 2, devices=jax.devices()[:2])
    rules = sharding.logical_rules(mesh, {"embed": 8, "heads": N, "kv_heads": K, "vocab": 8})
    heads = [jax.ShapeDtypeStruct((1, tokens, n, 64), "bfloat16") for n in (N, K, K)]
    row = jax.ShapeDtypeStruct((1, tokens), jnp.int32)

    def attend(*args):
        return attention_kernels.attend_rows(*args, scale=0.1, rules=rules)

    with jax.set_mesh(mesh):
        assert "pallas_call" not in str(jax.make_jaxpr(attend)(*heads, row, row))
    assert [r.message for r in caplog.records] == [
        f"attention on {platform}: the portable implementation is used, because {reason}"
    ]


def test_reference_is_no_fallback_on_cpu(caplog: pytest.LogCaptureFixture) -> None:
    q, k, v = random_qkv(64)
    attention_kernels.attend_rows(q, k, v, *rows(), scale=0.1)
    assert attention_kernels.platform() == "cpu" and not caplog.records


def test_gpu_takes_cudnn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_kernels, "platform", lambda: "gpu")
    calls = []
    monkeypatch.setattr(
        jax.nn, "dot_product_attention", lambda q, *_, **options: calls.append(options) or q
    )
    attention_kernels.attend_rows(*random_qkv(64, "bfloat16"), *rows(), scale=0.1, window=40)
    (options,) = calls
    assert options["implementation"] == "cudnn" and options["is_causal"]
    assert options["mask"].shape == (B, 1, T, T) and options["mask"].any(-1).all()


@pytest.mark.slow
def test_model_with_kernels_equals_model_without(tpu, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pattern of windows, soft-cap and rematerialisation around the kernel."""
    config = dataclasses.replace(
        tiny_models.TINY_CONFIG,
        head_dim=64,
        windows=(40, None, 40),
        attention_soft_cap=5.0,
        remat="attention",
    )
    params = tiny_models.tiny_params(config)
    tokens = np.random.default_rng(0).integers(0, 128, (B, T)).astype(np.int32)

    def run():
        def score(params):
            logprobs, _ = model.token_logprobs(config, params, tokens, *rows())
            return jnp.sum(logprobs * jnp.cos(jnp.arange(T))), logprobs

        return jax.device_get(jax.jit(jax.value_and_grad(score, has_aux=True))(params))

    (_, got), got_grads = run()
    monkeypatch.setattr(attention_kernels, "platform", lambda: "cpu")
    (_, wanted), grads = run()
    np.testing.assert_allclose(got, wanted, atol=1e-4)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4 * max(1, np.abs(b).max())),
        got_grads,
        grads,
    )


@pytest.mark.slow
@pytest.mark.parametrize("sizes", ["1 2 2", "1 1 2 2"])
def test_compiles_for_tpu(sizes: str) -> None:
    """Forward and backward of a model with a pattern of windows, for four chips of TPU v5e."""
    if importlib.util.find_spec("libtpu") is None:
        pytest.skip("compiling for TPU needs libtpu: pip install libtpu")
    program = Path(__file__).with_name("compile_for_tpu.py")
    environment = {**os.environ, "TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    environment["JAX_COMPILATION_CACHE_DIR"] = ""  # a CPU cannot load what it finds there
    done = subprocess.run(
        [sys.executable, program, *sizes.split()],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode and "lockfile" in done.stderr:
        pytest.skip("another process is compiling for TPU")
    assert done.returncode == 0, done.stderr[-3000:]
    # For each of the two windows: forward, dq, dkv. remat="attention" runs none of them again.
    assert int(done.stdout.split()[-1]) == 6
