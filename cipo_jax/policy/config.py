"""The architecture as data: which features a supported model family may have, and their names.

What they compute is in `model`, `layers`, `rope` and `attention`; how a Hugging Face config.json
describes them is in `huggingface/config`.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RopeScaling:
    """Stretching of rotary frequencies for contexts beyond the original one.

    "linear" divides all frequencies by `factor`; "llama3" only the slow ones, with a smooth
    transition between the two wave lengths (Llama 3.1); "yarn" likewise, with a transition linear
    in the index of the frequency, and it lengthens the rotated vectors.

    Attributes:
      original_max_positions: llama3, yarn: the length of the original context.
      low_freq_factor, high_freq_factor: llama3: frequencies with at most the first number of turns
        within the original context are divided by `factor`, those with at least the second kept.
      beta_slow, beta_fast: the same for yarn.
      truncate: yarn: the transition begins and ends at whole indices.
      attention_factor: yarn: length of the rotated vectors relative to the unrotated.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    attention_factor: float = 1.0


@dataclasses.dataclass(frozen=True)
class ModelConfig:
    """The architecture. Hashable: a static argument of every compiled program.

    Attributes:
      rope_theta: base of the rotary frequencies.
      rope_scaling: their stretching; None: none.
      local_rope_theta: base of the rotary frequencies, unscaled, of layers with a window; None:
        they rotate as the other layers do.
      windows: for each layer, how many tokens a query sees, itself included; None: all before it.
        (): None in all layers.
      query_pre_attn_scalar: scores are divided by its square root; None: head_dim.
      attention_soft_cap, logit_soft_cap: x -> cap * tanh(x / cap), on scores and on logits.
      activation: "silu" or "gelu_pytorch_tanh", of the gate.
      norm_plus_one: norms multiply by 1 + scale, in float32.
      post_norms: attention and MLP outputs are normalised before they are added.
      qk_norm: queries and keys are normalised, head by head, before the rotation.
      scale_embeddings: embeddings are multiplied by sqrt(d_model).
      tie_embeddings: the head's weights are the embedding's.
      max_positions: the longest sequence, in tokens.
      param_dtype, compute_dtype: of the parameters, and of activations and products with them.
      remat: what the backward pass recomputes, see `model.REMAT_POLICIES`.
      unroll: layers per iteration of the layer loop, where there is no cache.
    """

    vocab_size: int
    num_layers: int
    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_dim: int
    rope_theta: float = 10_000.0
    rope_scaling: RopeScaling | None = None
    local_rope_theta: float | None = None
    windows: tuple[int | None, ...] = ()
    query_pre_attn_scalar: float | None = None
    attention_soft_cap: float | None = None
    logit_soft_cap: float | None = None
    activation: str = "silu"
    norm_eps: float = 1e-6
    norm_plus_one: bool = False
    post_norms: bool = False
    qk_norm: bool = False
    attention_bias: bool = False  # on q, k, v
    attention_out_bias: bool = False
    scale_embeddings: bool = False
    tie_embeddings: bool = False
    max_positions: int = 1 << 30
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: str = "none"
    unroll: int = 1

    def __post_init__(self) -> None:
        if len(self.windows) not in (0, self.num_layers):
            raise ValueError(f"windows: got {len(self.windows)}, wanted {self.num_layers} or none")
        if self.local_rope_theta is not None and not self.windows:
            raise ValueError("local_rope_theta is for layers with a window; there are none")

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

    @property
    def attention_scale(self) -> float:
        """What scores are multiplied by."""
        return (self.query_pre_attn_scalar or self.head_dim) ** -0.5

    @property
    def distinct_windows(self) -> tuple[int | None, ...]:
        """The windows that occur, each once, in order of their first layer."""
        return tuple(dict.fromkeys(self.windows)) or (None,)
