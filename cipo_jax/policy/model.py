"""The decoder-only transformer, as pure functions of its parameters.

One file for all families (Qwen 2 and 3, Llama 2 and 3, Mistral, Gemma 2 and 3), whose features are
those of `ModelConfig`. Layers are stacked and scanned, patterns of windows included, so compile
time does not grow with depth. The key/value cache is an explicit argument and an explicit result.

Not decided here: what norms, products and activations are (`layers`), how attention is computed
(`attention_kernels`, `cache/attention`), how log-probs are (`logprobs`), where stored weights come
from (`huggingface/`).
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import Mesh, NamedSharding

from cipo_jax.policy import attention, rope
from cipo_jax.policy.attention_kernels import attend_rows, platform, without_kernels
from cipo_jax.policy.cache.attention import PagedCache, attend_paged
from cipo_jax.policy.config import ModelConfig
from cipo_jax.policy.context import in_rows, spread, token_shards
from cipo_jax.policy.embedding import look_up
from cipo_jax.policy.layer_weights import APART, Apart, of_layer, one_by_one
from cipo_jax.policy.layers import ACTIVATIONS, RMSNorm, kernel_init, parameter, project
from cipo_jax.policy.logprobs import Head, score_tokens
from cipo_jax.policy.random_keys import random_key
from cipo_jax.policy.sharding import Rules, constrain, logical_rules, spec

Params = dict[str, Any]

# What the backward pass finds saved of each layer, besides its input; the rest is computed again.
# "none" saves everything.
REMAT_POLICIES = {
    "full": jax.checkpoint_policies.nothing_saveable,
    # q, k, v as projected and what attention makes of them: a kernel is not run twice.
    "attention": jax.checkpoint_policies.save_only_these_names("qkv", attention.SAVED_NAME),
    # The results of all matrix products with weights.
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


# Public functions.


def init_params(config: ModelConfig, key: jax.Array, mesh: Mesh | None = None) -> Params:
    """Random parameters in `config.param_dtype`: a plain nested dict, created on their shards where
    a mesh is given."""
    options = None
    if platform() == "cpu":  # where LLVM takes seconds for what runs once
        options = {"xla_backend_optimization_level": 1}
    shardings = None if mesh is None else param_shardings(config, mesh)

    def init(key: jax.Array) -> Params:
        return nn.meta.unbox(_init_boxed(config, key))

    return jax.jit(init, out_shardings=shardings, compiler_options=options)(key)


def abstract_params(config: ModelConfig) -> Params:
    """Shapes and dtypes of the parameters, without allocating them."""
    return nn.meta.unbox(_abstract_boxed(config))


def param_shardings(config: ModelConfig, mesh: Mesh) -> Params:
    """The NamedSharding of every parameter.

    Raises:
      CipoError: as `logical_rules`.
    """
    rules = logical_rules(mesh, config.axis_sizes)
    return jax.tree.map(
        lambda box: NamedSharding(mesh, spec(rules, box.names)),
        _abstract_boxed(config),
        is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned),
    )


def cast_weights(params: Params, dtype: str) -> Params:
    """The parameters with all but the norms' scales, which are used in float32, in `dtype`."""

    def cast(path: tuple[Any, ...], x: jax.Array) -> jax.Array:
        return x if path[-1].key == "scale" else x.astype(dtype)

    return jax.tree_util.tree_map_with_path(cast, params)


def hidden_states(
    config: ModelConfig,
    params: Params,
    tokens: jax.Array,
    positions: jax.Array,
    segments: jax.Array,
    cache: PagedCache | None = None,
    rules: Rules = (),
    prefixes: jax.Array | None = None,
) -> tuple[jax.Array, PagedCache | None]:
    """Final hidden states, and the cache with these tokens appended.

    Args:
      params: with the layers stacked, or apart, see `layer_weights`.
      tokens, positions, segments: [B, T] int32; a token attends within its segment up to its
        position; segment 0 is padding. If tokens are split, in the devices' order (`context`).
      cache: if given, where earlier tokens are and these T are written.
      prefixes: [B, T] int32, without a cache: a second segment in which a token sees what is up to
        its position, as completions see a prompt that they share.

    Returns:
      [B, T, D] in the compute dtype, normalised, ready for `unembed`; the new cache or None.
    """
    if cache is not None:  # unrolled layers would copy it
        config = dataclasses.replace(config, unroll=1)
    apart = params.get(APART)
    layers = one_by_one(params) if apart and platform() == "gpu" else []
    arguments = (tokens, positions, segments, prefixes, cache, apart, layers)
    return cast(Any, Transformer(config, rules).apply({"params": params}, *arguments))


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
    prefixes: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Teacher-forced log-probs of the given tokens, and the entropy of their distributions.

    `logprobs[b, t]` belongs to `tokens[b, t]`, given the tokens of its segment before it; this is
    the one place that shifts. Column 0 and the first token of each segment have no context: 0.
    Logits exist for a block of tokens at a time, see `logprobs`.

    Args:
      tokens, positions, segments: [B, T] int32.
      temperature: logits are divided by it, as the sampler does.
      prefixes: as in `hidden_states`.

    Returns:
      logprobs, entropy: [B, T] float32; entropy in nats.

    Raises:
      CipoError: the mesh splits rows by tokens, and these are too few for it.
    """
    has_context = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    targets = spread(jnp.roll(tokens, -1, axis=1), rules)  # what the hidden state at t predicts
    tokens, positions, segments = (spread(x, rules) for x in (tokens, positions, segments))
    prefixes = None if prefixes is None else spread(prefixes, rules)
    rows = (tokens, positions, segments)
    hidden, _ = hidden_states(config, params, *rows, rules=rules, prefixes=prefixes)

    head = Head(config.tie_embeddings, temperature, config.logit_soft_cap)
    weights = params["embedding" if config.tie_embeddings else "head"]
    logprobs, entropy = score_tokens(head, weights, hidden, targets, rules)

    def shift(x: jax.Array) -> jax.Array:
        known = jnp.where(has_context, in_rows(x, rules)[:, :-1], 0.0)
        return jnp.pad(known, ((0, 0), (1, 0)))

    return shift(logprobs), shift(entropy)


# The linen module behind them.


def _init_boxed(config: ModelConfig, key: jax.Array) -> Params:
    tokens = jnp.ones((1, 1), jnp.int32)
    with without_kernels():  # which may not take one token, and would say so
        return Transformer(config, ()).init(key, tokens, tokens, tokens)["params"]


@functools.lru_cache(maxsize=16)
def _abstract_boxed(config: ModelConfig) -> Params:
    """What `_init_boxed` would give. Cached: every rollout asks for it, and tracing is slow."""
    return jax.eval_shape(functools.partial(_init_boxed, config), random_key(0))


def _window_of_layer(config: ModelConfig, layer: jax.Array) -> int | None | jax.Array:
    """The layer's window: static where all layers agree."""
    choices = config.distinct_windows
    if len(choices) == 1:
        return choices[0]
    return jnp.asarray([attention.window_size(w) for w in config.windows], jnp.int32)[layer]


def _rope_of_layer(
    config: ModelConfig, layer: jax.Array, tables: tuple[jax.Array, jax.Array]
) -> tuple[jax.Array, jax.Array]:
    """cos and sin of the layer's base, [B, T, H / 2]."""
    cos, sin = tables
    if len(cos) == 1:
        return cos[0], sin[0]
    local = jnp.asarray([w is not None for w in config.windows], jnp.int32)[layer]
    return cos[local], sin[local]


# (x, {name: logical axes}, initialiser, dimensions of x to contract) -> a product for each name
Product = Callable[..., list[jax.Array]]


class Layer(nn.Module):
    """One pre-norm block. The scan carries hidden states and the whole cache through the layers."""

    config: ModelConfig
    rules: Rules

    def _weight(self, name: str, init: Any, axes: tuple[str, ...]) -> jax.Array:
        sizes = {**self.config.axis_sizes, "head_dim": self.config.head_dim}
        shape = tuple(sizes[axis] for axis in axes)
        value = parameter(self, name, init, axes, shape, self.config.param_dtype)
        return value.astype(self.config.compute_dtype)

    def _product(
        self,
        layer: jax.Array,
        apart: Apart | None,
        x: jax.Array,
        weights: dict[str, tuple[str, ...]],
        init: nn.initializers.Initializer,
        inputs: int = 1,
    ) -> list[jax.Array]:
        """x times each of the layer's weights, {name: logical axes}."""
        # A device's tokens of several rows do not lie side by side in one list of all tokens.
        flat = token_shards(self.rules) == 1

        def multiply(x: jax.Array, *values: jax.Array) -> list[jax.Array]:
            cast = (v.astype(self.config.compute_dtype) for v in values)
            return [project(x, v, inputs, flat=flat) for v in cast]

        if apart is not None:
            return of_layer(layer, [apart[name] for name in weights], multiply, x)
        return multiply(x, *(self._weight(name, init, axes) for name, axes in weights.items()))

    @nn.compact
    def __call__(
        self,
        carry: tuple[jax.Array, PagedCache | None],
        layer: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        prefixes: jax.Array | None,
        rope_tables: tuple[jax.Array, jax.Array],
        apart: Apart | None,
    ) -> tuple[tuple[jax.Array, PagedCache | None], None]:
        x, cache = carry
        product = functools.partial(self._product, layer, apart)
        x = constrain(x, self.rules, ("batch", "tokens", None))
        normed = RMSNorm(self.config, name="attention_norm")(x)
        at = (positions, segments, prefixes, rope_tables)
        attended, cache = self._attention(product, normed, cache, layer, *at)
        if self.config.post_norms:
            attended = RMSNorm(self.config, name="post_attention_norm")(attended)
        x = x + attended
        changed = self._mlp(product, RMSNorm(self.config, name="mlp_norm")(x))
        if self.config.post_norms:
            changed = RMSNorm(self.config, name="post_mlp_norm")(changed)
        return (x + changed, cache), None

    def _attention(
        self,
        product: Product,
        x: jax.Array,
        cache: PagedCache | None,
        layer: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        prefixes: jax.Array | None,
        rope_tables: tuple[jax.Array, jax.Array],
    ) -> tuple[jax.Array, PagedCache | None]:
        c = self.config
        heads, kv_heads = (("embed", axis, "head_dim") for axis in ("heads", "kv_heads"))
        q, k, v = product(x, {"q": heads, "k": kv_heads, "v": kv_heads}, kernel_init())
        if c.attention_bias:
            zeros = nn.initializers.zeros
            q = q + self._weight("q_bias", zeros, ("heads", "head_dim"))
            k = k + self._weight("k_bias", zeros, ("kv_heads", "head_dim"))
            v = v + self._weight("v_bias", zeros, ("kv_heads", "head_dim"))
        # Before norm and rotation, which cost little to recompute; the norm's backward pass needs
        # its input.
        q, k, v = (checkpoint_name(x, "qkv") for x in (q, k, v))
        if c.qk_norm:
            q = RMSNorm(c, name="q_norm")(q)
            k = RMSNorm(c, name="k_norm")(k)
        cos, sin = _rope_of_layer(c, layer, rope_tables)
        q, k = rope.rotate(q, cos, sin), rope.rotate(k, cos, sin)
        q = constrain(q, self.rules, ("batch", "tokens", "heads", "head_dim"))

        options: Any = {
            "scale": c.attention_scale,
            "window": _window_of_layer(c, layer),
            "windows": c.distinct_windows,
            "soft_cap": c.attention_soft_cap,
            "rules": self.rules,
        }
        if cache is None:
            out = attend_rows(q, k, v, positions, segments, prefixes=prefixes, **options)
        else:
            out, cache = attend_paged(cache, layer, q, k, v, positions, segments, **options)
        init = kernel_init((2 * c.num_layers) ** -0.5, inputs=2)
        [out] = product(out, {"o": ("heads", "head_dim", "embed")}, init, 2)
        if c.attention_out_bias:
            out = out + self._weight("o_bias", nn.initializers.zeros, ("embed",))
        return out, cache

    def _mlp(self, product: Product, x: jax.Array) -> jax.Array:
        gate, up = product(x, dict.fromkeys(("gate", "up"), ("embed", "mlp")), kernel_init())
        inner = ACTIVATIONS[self.config.activation](gate) * up
        inner = constrain(inner, self.rules, ("batch", "tokens", "mlp"))
        init = kernel_init((2 * self.config.num_layers) ** -0.5)
        return product(inner, {"down": ("mlp", "embed")}, init)[0]


class Transformer(nn.Module):
    config: ModelConfig
    rules: Rules

    def setup(self) -> None:
        c = self.config
        V, D = c.vocab_size, c.d_model
        weight = functools.partial(parameter, self, dtype=c.param_dtype)
        init = nn.initializers.normal(D**-0.5)
        self.embedding = weight("embedding", init, ("vocab", "vocab_embed"), (V, D))
        if not c.tie_embeddings:
            self.head = weight("head", kernel_init(), ("vocab_embed", "vocab"), (D, V))
        layer = Layer
        if c.remat != "none":
            # The scan prevents CSE already.
            layer = nn.remat(Layer, prevent_cse=False, policy=REMAT_POLICIES[c.remat])
        self.layers = nn.scan(
            layer,
            variable_axes={"params": 0},
            split_rngs={"params": True},
            in_axes=(0, *(nn.broadcast,) * 5),
            length=c.num_layers,
            unroll=min(c.unroll, c.num_layers),
            metadata_params={nn.PARTITION_NAME: "layers"},
            # It traces the layer once more; without it, initialisation draws other numbers.
            check_constancy_invariants=self.is_initializing(),
        )(c, self.rules)
        self.final_norm = RMSNorm(c)

    def __call__(
        self,
        tokens: jax.Array,
        positions: jax.Array,
        segments: jax.Array,
        prefixes: jax.Array | None = None,
        cache: PagedCache | None = None,
        apart: Apart | None = None,
        layers: Sequence[tuple[Params, Apart]] = (),
    ) -> tuple[jax.Array, PagedCache | None]:
        """`apart`, and `layers` where they are not scanned: see `layer_weights`."""
        c = self.config
        carry: Any = (self.embed(tokens), cache)
        rows = (positions, segments, prefixes, rope.tables(c, positions))

        @jax.jit  # traced once, not for every layer
        def one(carry: Any, number: jax.Array, weights: Params, own: Apart, *rows: Any) -> Any:
            layer = Layer(c, self.rules, parent=None)
            return layer.apply({"params": weights}, carry, number, *rows, own)[0]

        for number, (weights, own) in enumerate(layers):
            carry = one(carry, jnp.int32(number), weights, own, *rows)
        if not layers:
            carry, _ = self.layers(carry, jnp.arange(c.num_layers), *rows, apart)
        return self.final_norm(carry[0]), carry[1]

    def embed(self, tokens: jax.Array) -> jax.Array:
        c = self.config
        if token_shards(self.rules) > 1:
            x = look_up(self.embedding, tokens, self.rules, c.compute_dtype)
        else:
            x = jnp.take(self.embedding, tokens, axis=0).astype(c.compute_dtype)
            # In two steps, from D split by fsdp to rows: in one, all of x would be replicated.
            x = constrain(x, self.rules, ("batch_by_data", "tokens", "embed"))
            x = constrain(x, self.rules, ("batch", "tokens", None))
        if c.scale_embeddings:
            # The factor is rounded to the compute dtype too, as when checkpoints were trained.
            x = x * jnp.asarray(c.d_model**0.5, c.compute_dtype)
        return x

    def unembed(self, hidden: jax.Array) -> jax.Array:
        c = self.config
        table = self.embedding.T if c.tie_embeddings else self.head
        logits = project(hidden, table.astype(c.compute_dtype), dtype=jnp.float32)
        logits = attention.soft_capped(logits, c.logit_soft_cap)
        axes = ("batch", *("tokens",) * (hidden.ndim - 2), "vocab")
        return constrain(logits, self.rules, axes)
