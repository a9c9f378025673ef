"""The decoder-only transformer, as pure functions of its parameters.

One family file, steered by `ModelConfig`: pre-norm RMSNorm, rotary positions, grouped-query
attention with optional QK-norm and biases, SwiGLU, tied or untied embeddings: Qwen2/3 and Llama
architectures. Layers are stacked and scanned, so compile time does not grow with depth. The
key/value cache is an explicit argument and an explicit result.

Not decided here: how tokens are chosen (`sampling/`), what is optimised (`rl/`), where weights
come from (`hf_weights`).
"""

import dataclasses
import functools
import math
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jax.sharding import Mesh, NamedSharding

from cipo_jax.policy import attention
from cipo_jax.policy.sharding import Rules, constrain, logical_rules, spec

Params = dict[str, Any]

# Tokens per step of the scan that turns hidden states into log-probs: bounds the logits held at
# once to [B, LOGPROB_BLOCK, V].
LOGPROB_BLOCK = 512


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Stretching of rotary frequencies for contexts beyond the original one.

    kind "linear" divides all frequencies by `factor`; "llama3" only the slow ones, with a smooth
    transition between the two wave lengths (Llama 3.1).
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture. Hashable: a static argument of every compiled program."""

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    norm_eps: float = 1e-6
    qk_norm: bool = False
    attention_bias: bool = False  # on q, k, v
    attention_out_bias: bool = False
    tie_embeddings: bool = False
    max_positions: int = 1 << 30
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: str = "none"

    @property
    def axis_sizes(self) -> dict[str, int]:
        """The size of every logical axis that a mesh axis may split."""
        return {
            "embed": self.d_model,
            "heads": self.num_heads,
            "kv_heads": self.num_kv_heads,
            "mlp": self.mlp_dim,
            "vocab": self.vocab_size,
        }


@struct.dataclass
class KVCache:
    """Keys and values of all layers. Columns are filled from left to right, the same for each row.

    Attributes:
      k, v: [L, B, S, K, H] in the compute dtype.
      positions: [B, S] int32, the position of the token in each column.
      segments: [B, S] int32, 1 for a real token, 0 for padding or an empty column.
      used: [] int32, how many columns are filled.
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    segments: jax.Array
    used: jax.Array


def empty_cache(config: ModelConfig, batch: int, length: int, rules: Rules = ()) -> KVCache:
    """A cache for `batch` rows of up to `length` tokens."""
    shape = (config.num_layers, batch, length, config.num_kv_heads, config.head_dim)
    axes = ("layers", "batch", "tokens", "kv_heads", "head_dim")
    zeros = constrain(jnp.zeros(shape, config.compute_dtype), rules, axes)
    flat = constrain(jnp.zeros((batch, length), jnp.int32), rules, ("batch", "tokens"))
    return KVCache(k=zeros, v=zeros, positions=flat, segments=flat, used=jnp.zeros((), jnp.int32))


# Public functions.


def init_params(config: ModelConfig, key: jax.Array, mesh: Mesh | None = None) -> Params:
    """Random parameters: a plain nested dict, created on their shards when a mesh is given."""
    init = functools.partial(_init, config)
    if mesh is None:
        return jax.jit(init)(key)
    return jax.jit(init, out_shardings=param_shardings(config, mesh))(key)


def abstract_params(config: ModelConfig) -> Params:
    """Shapes and dtypes of the parameters, without allocating them."""
    return jax.eval_shape(functools.partial(_init, config), jax.random.key(0))


def param_shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """The NamedSharding of every parameter."""
    rules = logical_rules(mesh, config.axis_sizes)
    boxed = jax.eval_shape(functools.partial(_init_boxed, config), jax.random.key(0))
    return jax.tree.map(
        lambda box: NamedSharding(mesh, spec(rules, box.names)),
        boxed,
        is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned),
    )


def hidden_states(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    cache: KVCache | None = None,
    rules: Rules = (),
) -> tuple[jax.Array, KVCache | None]:
    """Final hidden states, and the cache with these tokens appended.

    Args:
      tokens, positions, segments: [B, T] int32; a token attends within its segment up to its
        position; segment 0 is padding.
      cache: if given, earlier tokens; these T are written to its next T columns.

    Returns:
      [B, T, D] in the compute dtype, normalised, ready for `unembed`; the new cache or None.
    """
    module = Transformer(config, rules)
    return cast(Any, module.apply({"params": params}, tokens, positions, segments, cache))


def unembed(config: ModelConfig, params: Params, hidden: jax.Array, rules: Rules = ()) -> jax.Array:
    """[..., D] hidden states to [..., V] float32 logits."""
    module = Transformer(config, rules)
    return cast(jax.Array, module.apply({"params": params}, hidden, method="unembed"))


def token_logprobs(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    temperature: float = 1.0,
    rules: Rules = (),
) -> tuple[jax.Array, jax.Array]:
    """Teacher-forced log-probs of the given tokens, and the entropy of their distributions.

    `logprobs[b, t]` belongs to `tokens[b, t]`, given the tokens of its segment before it; this is
    the one place that shifts. Column 0 and the first token of each segment have no context: 0.
    Logits exist for LOGPROB_BLOCK tokens at a time, in the backward pass too.

    Args:
      tokens, positions, segments: [B, T] int32.
      temperature: logits are divided by it, as the sampler does.

    Returns:
      logprobs, entropy: [B, T] float32; entropy in nats.
    """
    hidden, _ = hidden_states(config, params, tokens, positions, segments, rules=rules)
    targets = jnp.roll(tokens, -1, axis=1)  # what the hidden state at t predicts

    def block(hidden: jax.Array, targets: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = unembed(config, params, hidden, rules) / temperature
        log_z = jax.nn.logsumexp(logits, axis=-1)
        chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
        mean_logit = jnp.sum(jax.nn.softmax(logits, axis=-1) * logits, axis=-1)
        return chosen - log_z, log_z - mean_logit

    T = tokens.shape[1]
    if T <= LOGPROB_BLOCK:
        logprobs, entropy = block(hidden, targets)
    else:
        blocks = tuple(attention.split_tokens(x, LOGPROB_BLOCK) for x in (hidden, targets))
        parts = jax.lax.map(jax.checkpoint(lambda args: block(*args)), blocks)
        logprobs, entropy = (attention.join_tokens(p, T) for p in parts)

    has_context = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)

    def shift(x: jax.Array) -> jax.Array:
        return jnp.pad(jnp.where(has_context, x[:, :-1], 0.0), ((0, 0), (1, 0)))

    return shift(logprobs), shift(entropy)


# The linen module behind them.


def _init_boxed(config: ModelConfig, key: jax.Array) -> Params:
    tokens = jnp.ones((1, 1), jnp.int32)
    model = Transformer(config, ())
    return model.init(key, tokens, tokens, tokens, None)["params"]


def _init(config: ModelConfig, key: jax.Array) -> Params:
    return nn.meta.unbox(_init_boxed(config, key))


def _kernel(scale: float = 1.0, inputs: int = 1) -> nn.initializers.Initializer:
    """Normal with variance scale^2 / fan-in; the first `inputs` dimensions are contracted."""

    def init(key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        fan_in = 1
        for size in shape[:inputs]:
            fan_in *= size
        return scale * fan_in**-0.5 * jax.random.normal(key, shape, dtype)

    return init


class RMSNorm(nn.Module):
    """Root-mean-square norm over the last dimension, in float32."""

    config: ModelConfig

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        scale = self.param(
            "scale",
            nn.with_logical_partitioning(nn.initializers.ones, ("norm",)),
            (x.shape[-1],),
            self.config.param_dtype,
        )
        x32 = x.astype(jnp.float32)
        inverse = jax.lax.rsqrt(jnp.mean(x32 * x32, axis=-1, keepdims=True) + self.config.norm_eps)
        return (x32 * inverse).astype(x.dtype) * cast(jax.Array, scale).astype(x.dtype)


def rope_frequencies(config: ModelConfig) -> jax.Array:
    """[H / 2] float32 rotary frequencies in radians per position."""
    exponent = jnp.arange(0, config.head_dim, 2, dtype=jnp.float32) / config.head_dim
    frequencies = 1.0 / config.rope_theta**exponent
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    if scaling.kind == "linear":
        return frequencies / scaling.factor
    if scaling.kind == "llama3":
        turns = scaling.original_max_positions * frequencies / (2 * jnp.pi)
        span = scaling.high_freq_factor - scaling.low_freq_factor
        keep = jnp.clip((turns - scaling.low_freq_factor) / span, 0.0, 1.0)
        return frequencies * (keep + (1 - keep) / scaling.factor)
    raise ValueError(f"rope scaling {scaling.kind!r} is not known: linear, llama3")


def rotate(x: jax.Array, positions: jax.Array, frequencies: jax.Array) -> jax.Array:
    """Applies rotary position embedding to x [B, T, N, H] (halves layout), in float32."""
    angles = positions[..., None].astype(jnp.float32) * frequencies  # [B, T, H/2]
    cos, sin = jnp.cos(angles)[:, :, None], jnp.sin(angles)[:, :, None]
    first, second = jnp.split(x.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate(
        [first * cos - second * sin, second * cos + first * sin], axis=-1
    ).astype(x.dtype)


def _project(x: jax.Array, weight: jax.Array, inputs: int = 1, dtype: Any = None) -> jax.Array:
    """Contracts the last `inputs` dimensions of x with the first of weight, as one matrix product
    with results in `dtype`.

    Flattened by hand: XLA:CPU turns the weight gradient of the unflattened product into
    transposed copies and a product four times slower.
    """
    fan_in = math.prod(weight.shape[:inputs])
    flat = jnp.matmul(
        x.reshape(-1, fan_in), weight.reshape(fan_in, -1), preferred_element_type=dtype
    )
    return flat.reshape(*x.shape[:-inputs], *weight.shape[inputs:])


class Layer(nn.Module):
    """One pre-norm block. The scan carries hidden states and the whole cache through the layers."""

    config: ModelConfig
    rules: Rules

    def _weight(self, name: str, init: Any, axes: tuple[str, ...]) -> jax.Array:
        sizes = {**self.config.axis_sizes, "head_dim": self.config.head_dim}
        shape = tuple(sizes[axis] for axis in axes)
        value = self.param(
            name, nn.with_logical_partitioning(init, axes), shape, self.config.param_dtype
        )
        return cast(jax.Array, value).astype(self.config.compute_dtype)

    @nn.compact
    def __call__(
        self,
        carry: tuple[jax.Array, KVCache | None],
        layer: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
    ) -> tuple[tuple[jax.Array, KVCache | None], None]:
        x, cache = carry
        x = constrain(x, self.rules, ("batch", "tokens", None))
        attended, cache = self._attention(
            RMSNorm(self.config, name="attention_norm")(x), cache, layer, positions, segments
        )
        x = x + attended
        x = x + self._mlp(RMSNorm(self.config, name="mlp_norm")(x))
        return (x, cache), None

    def _attention(
        self,
        x: jax.Array,
        cache: KVCache | None,
        layer: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
    ) -> tuple[jax.Array, KVCache | None]:
        c = self.config
        q = _project(x, self._weight("q", _kernel(), ("embed", "heads", "head_dim")))
        k = _project(x, self._weight("k", _kernel(), ("embed", "kv_heads", "head_dim")))
        v = _project(x, self._weight("v", _kernel(), ("embed", "kv_heads", "head_dim")))
        if c.attention_bias:
            zeros = nn.initializers.zeros
            q = q + self._weight("q_bias", zeros, ("heads", "head_dim"))
            k = k + self._weight("k_bias", zeros, ("kv_heads", "head_dim"))
            v = v + self._weight("v_bias", zeros, ("kv_heads", "head_dim"))
        if c.qk_norm:
            q = RMSNorm(c, name="q_norm")(q)
            k = RMSNorm(c, name="k_norm")(k)
        frequencies = rope_frequencies(c)
        q, k = rotate(q, positions, frequencies), rotate(k, positions, frequencies)
        q = constrain(q, self.rules, ("batch", "tokens", "heads", "head_dim"))

        if cache is None:
            keys, values, k_positions, k_segments = k, v, positions, segments
        else:
            # `used` advances once per call, after the last layer; here all layers write the same
            # columns, whose positions and segments the caller has already set.
            start = (layer, 0, cache.used, 0, 0)
            cache = dataclasses.replace(
                cache,
                k=jax.lax.dynamic_update_slice(cache.k, k[None].astype(cache.k.dtype), start),
                v=jax.lax.dynamic_update_slice(cache.v, v[None].astype(cache.v.dtype), start),
            )
            keys = jax.lax.dynamic_index_in_dim(cache.k, layer, keepdims=False)
            values = jax.lax.dynamic_index_in_dim(cache.v, layer, keepdims=False)
            k_positions, k_segments = cache.positions, cache.segments

        out = attention.attend(q, keys, values, positions, segments, k_positions, k_segments)
        residual_scale = (2 * c.num_layers) ** -0.5
        weight = self._weight(
            "o", _kernel(residual_scale, inputs=2), ("heads", "head_dim", "embed")
        )
        out = _project(out, weight, inputs=2)
        if c.attention_out_bias:
            out = out + self._weight("o_bias", nn.initializers.zeros, ("embed",))
        return out, cache

    def _mlp(self, x: jax.Array) -> jax.Array:
        gate = _project(x, self._weight("gate", _kernel(), ("embed", "mlp")))
        up = _project(x, self._weight("up", _kernel(), ("embed", "mlp")))
        inner = constrain(jax.nn.silu(gate) * up, self.rules, ("batch", "tokens", "mlp"))
        residual_scale = (2 * self.config.num_layers) ** -0.5
        return _project(inner, self._weight("down", _kernel(residual_scale), ("mlp", "embed")))


class Transformer(nn.Module):
    config: ModelConfig
    rules: Rules

    def setup(self) -> None:
        c = self.config
        embedding = nn.with_logical_partitioning(
            nn.initializers.normal(c.d_model**-0.5), ("vocab", "embed")
        )
        self.embedding: Any = self.param(
            "embedding", embedding, (c.vocab_size, c.d_model), c.param_dtype
        )
        if not c.tie_embeddings:
            head = nn.with_logical_partitioning(_kernel(), ("embed", "vocab"))
            self.head: Any = self.param("head", head, (c.d_model, c.vocab_size), c.param_dtype)
        layer = Layer
        if c.remat == "full":
            # CSE is already held back by the scan.
            layer = nn.remat(Layer, prevent_cse=False)
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, nn.broadcast, nn.broadcast),
            length=c.num_layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(c, self.rules)
        self.final_norm = RMSNorm(c)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        cache: KVCache | None,
    ) -> tuple[jax.Array, KVCache | None]:
        c = self.config
        x = jnp.take(self.embedding, tokens, axis=0).astype(c.compute_dtype)
        if cache is not None:
            column = (0, cache.used)
            cache = dataclasses.replace(
                cache,
                positions=jax.lax.dynamic_update_slice(cache.positions, positions, column),
                segments=jax.lax.dynamic_update_slice(cache.segments, segments, column),
            )
        (x, cache), _ = self.layers((x, cache), jnp.arange(c.num_layers), positions, segments)
        if cache is not None:
            cache = dataclasses.replace(cache, used=cache.used + tokens.shape[1])
        return self.final_norm(x), cache

    def unembed(self, hidden: jax.Array) -> jax.Array:
        c = self.config
        table = self.embedding.T if c.tie_embeddings else self.head
        logits = _project(hidden, table.astype(c.compute_dtype), dtype=jnp.float32)
        axes = ("batch", *("tokens",) * (hidden.ndim - 2), "vocab")
        return constrain(logits, self.rules, axes)
