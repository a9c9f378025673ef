"""The configuration: every key, its default and its unit.

A config file (`configs/*.py`) starts from `default_config()`, changes what it needs and returns an
`ml_collections.ConfigDict`; the command line overrides single keys with
`--config.section.key=value`. `config_resolve.resolve` then turns the whole into frozen dataclasses,
and `checks.py` refuses values that cannot work together: from there on no code sees a
dictionary. Functions receive the values they need, not the `Config`.

"paper" marks values known from the paper (arXiv 2605.14539) or public summaries of it; "ours"
marks our reading where those are silent.
"""

import dataclasses
import runpy
import types
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict


@dataclasses.dataclass(frozen=True)
class Model:
    """The policy. With `source` set, shape and weights come from there; the sizes are ignored."""

    # Directory of a Hugging Face checkpoint, or a hub id such as "Qwen/Qwen3-4B" (with "@revision"
    # behind it to fix one); "" builds the model below from seed.
    source: str = ""
    num_layers: int = 3  # transformer blocks
    d_model: int = 64  # width of the residual stream
    num_heads: int = 4  # query heads
    num_kv_heads: int = 2  # key/value heads, a divisor of num_heads
    head_dim: int = 16  # width of a head, even
    mlp_dim: int = 192  # hidden width of the gated MLP
    rope_theta: float = 10_000.0  # base of the rotary wavelengths
    qk_norm: bool = True  # RMSNorm on queries and keys, as in Qwen3
    tie_embeddings: bool = True  # the head is the embedding, transposed
    param_dtype: str = "float32"  # float32 | bfloat16: weights and optimiser state
    compute_dtype: str = "float32"  # float32 | bfloat16: activations; bfloat16 on accelerators
    # What the backward pass computes again instead of keeping, from little memory to much: full
    # (whole layers) | attention (all but q, k, v and attention) | dots (all but products with
    # weights) | none.
    remat: str = "full"
    # Layers of one turn of the update's loop over layers. On CPU, all of them make it faster; each
    # adds to compile time.
    unroll: int = 1


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The device mesh. Sizes multiply to the number of devices; -1 (one axis) takes the rest."""

    data: int = 1  # replicas
    fsdp: int = -1  # parameter and optimiser shards; rows are split over data x fsdp
    tensor: int = 1  # shards of heads, MLP and vocabulary
    # Devices that JAX makes of the CPU, in every process; 0: one, or what JAX is told otherwise.
    # Small models are fastest with one for each core, rows split over them (data = -1, fsdp = 1).
    cpu_devices: int = 0


DROP_REASONS = ("overlap", "duplicates", "too_long")


@dataclasses.dataclass(frozen=True)
class Data:
    """Problems, tokenizer, prompts."""

    # "arithmetic", "lists", "programs" (embedded generators), a jsonl file (local or gs://),
    # "hf:owner/name:split", "tfds:name:split", or several as "a.jsonl=0.7,b.jsonl=0.3"; see
    # data/sources.py.
    train: str = "arithmetic"
    eval: str = "arithmetic"  # likewise; problems to evaluate on
    # Columns of the sources. "": question, problem or prompt; answer, final_answer or
    # expected_answer, else the end of a solution; tests; id or the like, else the line.
    question_column: str = ""
    answer_column: str = ""  # of the reference answer, likewise
    tests_column: str = ""  # of the tests of programs, likewise
    id_column: str = ""  # of what names a problem, likewise
    # What to leave out of training: "overlap" (questions that `eval` or eval.suites also have),
    # "duplicates" (repeated questions), "too_long" (prompts over max_prompt_tokens).
    drop: tuple[str, ...] = ()
    # Words in a row that two questions must share to overlap; 0: only equal questions do.
    overlap_words: int = 13
    # Of a generator in `train`: so many problems, again and again; 0: new ones at each step.
    train_problems: int = 0
    eval_problems: int = 256  # how many of `eval` are used; 0: all (a generator needs a number)
    # "char" (embedded; "char_code" for "programs", "char_lists" for "lists"), "bytes", "" (that of
    # model.source), a directory of a Hugging Face tokenizer, or a sentencepiece *.model file.
    tokenizer: str = "char"
    chat_template: bool = False  # wrap prompts by the tokenizer's chat template
    # "on" or "off": the template's own switch enable_thinking (Qwen3); "" leaves its default.
    thinking: str = ""
    prompt_template: str = "{question}\n"  # must hold {question}
    # Must hold {question} and {attempt}. It never says whether the attempt was right.
    correction_template: str = "{question}\n{attempt}\nCheck and correct it.\n"
    max_prompt_tokens: int = 24  # of a base prompt; longer problems are refused at start
    max_attempt_tokens: int = 44  # of the quoted attempt; longer ones are cut in the middle
    max_completion_tokens: int = 44  # of a completion, stop token included
    # The embedded generator's problems have between these numbers of operations.
    min_operations: int = 2
    max_operations: int = 5  # at least min_operations


@dataclasses.dataclass(frozen=True)
class ColdStart:
    """Supervised warm-up on demonstrations, so that a fresh network gets its first rewards."""

    max_steps: int = 0  # optimiser steps at most; 0 skips the phase
    demonstrations: str = "arithmetic"  # "arithmetic", "lists", "programs", or a jsonl file
    batch_size: int = 96  # demonstrations a step
    correction_share: float = 0.4  # of generated demonstrations: share that are corrections
    right_share: float = 0.3  # of generated corrections: share whose previous attempt is right
    learning_rate: float = 6e-3  # peak; linear warm-up over 20 steps, then constant
    stop_at_pass_rate: float = 1.0  # ends the phase once pass@1 on held-out problems reaches it
    check_every: int = 50  # steps between those checks
    check_problems: int = 128  # held-out training-split problems per check, one sample each


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn. The policy gradient assumes the full distribution at temperature
    `temperature`; the trainer scores at the same temperature, and refuses top_k, top_p, min_p and
    min_new_tokens, which are for the other modes."""

    temperature: float = 1.0  # 0: greedy (not in training)
    top_k: int = 0  # only the k most likely tokens; 0: all
    top_p: float = 1.0  # only the most likely tokens that together have this probability
    min_p: float = 0.0  # only tokens with at least this share of the likeliest one's probability
    min_new_tokens: int = 0  # no stop token before this many
    stop_strings: tuple[str, ...] = ()  # texts that end a completion, besides the stop tokens
    # Tensor shards while sampling, the other devices then share the sequences; 0: as in `mesh`.
    # Decoding reads all weights at each step: sharded by fsdp, they are gathered each time.
    tensor: int = 0
    slots: int = 256  # sequences decoded together
    chunk: int = 16  # decode steps between looks at which sequences have finished
    page_size: int = 32  # tokens of a page of the key/value cache; 64 or more on TPU
    # Tokens that the key/value cache holds, over all devices that split rows. 0: every slot at full
    # length. With fewer, the youngest sequences are put off and computed again when it is full.
    cache_tokens: int = 0
    cache_dtype: str = ""  # float32 | bfloat16; "": model.compute_dtype, on CPU float32
    # Prompts are prefilled in stretches padded to one of these widths; each costs compilations. The
    # largest bounds a stretch. () makes powers of two from 16 to 512.
    prefill_widths: tuple[int, ...] = ()
    prefill_tokens: int = 4096  # padded tokens prefilled between two decode chunks, at most
    # Dispatch a chunk before the last one's results are read: the device never waits for the host,
    # but a finished sequence keeps its slot for one chunk more. For accelerators.
    dispatch_ahead: bool = False


@dataclasses.dataclass(frozen=True)
class Rollout:
    """The base stream."""

    problems_per_step: int = 32  # groups of the base stream (ours)
    group_size: int = 8  # completions per problem (paper: 8)
    # Dynamic sampling (DAPO): how many times groups that are all right or all wrong are replaced by
    # groups of further problems. Their tokens count as sampled. 0: never.
    max_refills: int = 0
    # "uniform" takes problems in order; "learnability" draws them from `curriculum_candidates`
    # times as many, in proportion to p (1 - p) of their running pass rate (ours).
    curriculum: str = "uniform"
    curriculum_candidates: int = 4  # times problems_per_step, with "learnability"
    pass_rate_decay: float = 0.7  # weight of the past in a problem's running pass rate


@dataclasses.dataclass(frozen=True)
class Correction:
    """The correction stream. `weight = 0` is GRPO: no anchors, no correction sampling."""

    weight: float = 1.0  # lambda of the joint objective L_base + lambda * L_corr
    replay_fraction: float = 1.0  # anchors per step = replay_fraction * problems_per_step (ours)
    group_size: int = 8  # corrections per anchor (ours: as in the base stream)
    # Problems with pass rate in [band_low, band_high] are preferred, then the nearest (paper).
    band_low: float = 0.375  # pass rate (paper)
    band_high: float = 0.75  # pass rate (paper)
    max_per_problem: int = 2  # anchors of one problem at most (ours)
    # If right or wrong attempts run short: "other" takes from the other class, "empty" leaves the
    # slot unused (ours).
    shortage: str = "other"
    # Tell which kind of test a wrong program failed first (never the expected output). The prompt
    # then gives away that the attempt was wrong, which the paper's does not.
    show_failed_test: bool = False
    lambda_risk: float = 0.5  # penalty on a wrong correction of a right attempt (value ours)


@dataclasses.dataclass(frozen=True)
class Replay:
    """The controller of rho, the share of anchors that are successes. Values as a public
    reimplementation reads the paper."""

    adaptive: bool = True  # False keeps rho at `initial`
    initial: float = 0.3  # rho of the first step
    minimum: float = 0.2  # bounds of rho
    maximum: float = 0.8  # likewise
    target_retention: float = 0.8  # tau, a share of corrections of right attempts
    gap_weight: float = 0.8  # w1, on tau - retention
    drop_weight: float = 0.3  # w2, on the fall of retention since the last step
    streak_weight: float = 0.05  # w3, on min(steps below tau, 3)


@dataclasses.dataclass(frozen=True)
class Algorithm:
    """Advantages and the policy loss."""

    # How rewards become advantages, see rl/advantages.py: "group" (GRPO), "group_mean" (Dr. GRPO),
    # "rloo", "stream" (after REINFORCE++).
    advantage_norm: str = "group"
    # For the correction stream, also "group_unshaped_std" (ours). "group" cancels lambda_risk (see
    # rl/advantages.py), so it is refused together with lambda_risk > 0.
    correction_advantage_norm: str = "group_unshaped_std"
    # Completions that hit the token limit: "keep" as any other, "mask" (left out, DAPO's overlong
    # filtering) or "soft" (DAPO's penalty over the last overlong_buffer tokens before the limit).
    overlong: str = "keep"
    overlong_buffer: int = 0  # tokens
    surrogate: str = "clip"  # "clip" (PPO) or "cispo" (clipped importance weight)
    ratio: str = "token"  # importance ratio per "token", or per "sequence" (GSPO)
    clip_low: float = 0.2  # the ratio is clipped to [1 - clip_low, 1 + clip_high]
    clip_high: float = 0.2  # likewise, above
    dual_clip: float = 0.0  # bound c > 1 on the loss of negative advantages; 0: none
    # How tokens add up: "token_mean" (DAPO), "sequence_mean" (GRPO), "constant" (Dr. GRPO).
    aggregation: str = "token_mean"
    # Denominator of the ratio: log-probs of the "sampler", or recomputed by the "trainer" before
    # the step's first update (with one update per step the ratio is then 1: nothing is clipped).
    old_logprobs: str = "sampler"
    tis_cap: float = 0.0  # truncated importance sampling, trainer over sampler; 0: off
    kl_coef: float = 0.0  # on the KL to the frozen initial policy; 0 keeps no reference
    kl_estimator: str = "k3"  # k2 | k3 (k1 has no gradient on-policy)
    entropy_coef: float = 0.0  # entropy bonus


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """An optax optimiser after clipping by global norm. Steps are optimiser updates."""

    name: str = "adamw"  # adamw | adafactor | muon (matrices by Muon, the rest by AdamW)
    learning_rate: float = 4e-4  # peak
    warmup_steps: int = 0  # linear, from learning_rate / warmup_steps
    schedule: str = "constant"  # after warm-up: constant | linear | cosine
    decay_steps: int = 0  # the update at which linear and cosine arrive at their floor
    final_share: float = 0.0  # that floor, as a share of the peak
    mu_dtype: str = ""  # dtype of first moments: "" (the parameters'), float32, bfloat16
    b1: float = 0.9  # decay per update of the first moment
    b2: float = 0.95  # and of the second
    weight_decay: float = 0.0  # decoupled, times the learning rate
    grad_clip: float = 1.0  # global norm


@dataclasses.dataclass(frozen=True)
class Batch:
    """The shape of the compiled train step: sequences are packed into rows of `row_tokens`."""

    row_tokens: int = 128  # at least the longest prompt + completion
    microbatch_rows: int = 16  # rows per gradient accumulation step, over all devices
    minibatches: int = 1  # optimiser updates per pass over a step's sequences
    epochs: int = 1  # passes over them


EXTRACTION_RULES = ("boxed", "hashes", "final_answer", "answer", "last_number")


@dataclasses.dataclass(frozen=True)
class Verifier:
    """Worker processes that judge completions."""

    # "math", "code" (runs programs in a sandbox), "auto" (code where a problem has tests, else
    # math), or an own function: "package.module:function" or "path/to/file.py:function", see
    # docs/own_task.md.
    kind: str = "math"
    workers: int = 2  # processes on each host
    # Workers beyond these that may run while as many others have been on one item for long.
    stand_ins: int = 2
    timeout_seconds: float = 10.0  # wall time per item; the worker is killed past it
    recycle_after: int = 10_000  # items after which a worker is replaced, against slow leaks
    memory_limit_mb: int = 2048  # address space of a worker, MiB
    # How "math" finds the answer of a completion: the first rule that finds its mark decides.
    # boxed | hashes ("####") | final_answer | answer | last_number, see verifiers/math/answer.py.
    extraction: tuple[str, ...] = ("boxed", "hashes", "final_answer", "answer")
    # What each outcome earns, in [-1, 1]. Pass rates, anchors and transitions go by the outcomes.
    reward_correct: float = 1.0  # the highest of them
    reward_wrong: float = 0.0  # an answer was read, and is not right
    reward_no_answer: float = 0.0  # none could be read
    reward_timeout: float = 0.0  # the verifier was killed at its deadline
    reward_error: float = 0.0  # the verifier failed
    # Run all tests of a program even after a failure, and move the reward from that of the outcome
    # towards reward_correct by the share of tests passed. Scores of an own function count likewise.
    partial_credit: bool = False
    # Run generated programs with resource limits alone where no sandbox is to be had. They can then
    # read and delete your files and use the network.
    allow_unsandboxed_code: bool = False


@dataclasses.dataclass(frozen=True)
class Eval:
    """Evaluation before training, every `every` steps, and at the end."""

    at_start: bool = True  # before the first step; else the report has nothing to compare with
    every: int = 20  # steps; 0: not by steps
    every_tokens: int = 0  # besides, each time this many more tokens were sampled; 0: not by tokens
    samples: int = 8  # completions per problem
    pass_at: tuple[int, ...] = (1, 8)  # k of pass@k, each <= samples
    corrected_attempts: int = 1  # own attempts per problem that are then corrected; 0: none
    # Per problem of an embedded task: so many wrong solutions of the generator and its right one
    # are given for correction, the same for every run; 0: none.
    given_attempts: int = 0
    majority: bool = True  # maj@k in --mode=evaluate; with many samples it takes minutes
    # --mode=evaluate. Benchmarks by name, see data/benchmarks/suites.py; () evaluates on data.eval.
    suites: tuple[str, ...] = ()
    data_dir: str = ""  # directory with the benchmarks' jsonl files; "" reads the hub
    suite_problems: int = 0  # how many of each benchmark are used; 0: all
    suite_samples: int = 0  # completions per problem; 0: as the benchmark's protocol has it
    suite_temperature: float = -1.0  # 0: greedy; -1: as the benchmark's protocol has it
    # LiveCodeBench's problems between these dates, both included, as 2024-08-01; "": open.
    released_from: str = ""
    released_until: str = ""  # likewise, the last date
    check_gold: bool = False  # verify the benchmarks' own answers and solutions, and end there
    name: str = ""  # of the directory under evaluations/; "": after the checkpoint


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every: int = 20  # steps; the last step is always saved
    keep: int = 2  # newest checkpoints kept
    keep_best: int = 1  # checkpoints kept besides for being the best by `best_metric`
    # A metric of the step or of an evaluation at it; higher is better. Checkpoints of steps that do
    # not have it are not compared.
    best_metric: str = "eval/pass@1"
    # Where checkpoints go, such as gs://bucket/run1; "": the run directory.
    directory: str = ""


@dataclasses.dataclass(frozen=True)
class Log:
    tensorboard: bool = True  # event files through clu (imports TensorFlow)
    show_samples_every: int = 10  # steps between attempt/correction pairs on screen; 0: never
    archive: bool = True  # write every attempt to attempts/*.jsonl.gz
    # Steps between measurements of the streams' gradients (one costs about an update); 0: never.
    gradient_stats_every: int = 0
    report_pairs: int = 2000  # attempt/correction pairs shown in report.html, spread over the run
    # For compiled programs: "auto" (.compiled in the run directory), a directory, or "" (none).
    compilation_cache: str = "auto"  # JAX_COMPILATION_CACHE_DIR goes before it
    max_compiles_after_warmup: int = -1  # programs compiled after `compile_warmup_steps`; -1: any
    compile_warmup_steps: int = 2  # steps, from each start of the process
    on_recompile: str = "warn"  # warn | stop, when there are more
    heartbeat_seconds: float = 30.0  # a phase that lasts longer says what it waits for; 0: never
    profile_steps: tuple[int, ...] = ()  # (first, last) are traced into profile/; (): none


@dataclasses.dataclass(frozen=True)
class Health:
    """Limits whose breach is reported. A limit of -1 switches its rule off."""

    retention_floor: float = 0.3  # accuracy of corrections of right attempts
    break_rate_ceiling: float = -1.0  # share of right attempts that corrections break
    entropy_floor: float = 0.003  # nats per token, base stream
    truncation_ceiling: float = 0.3  # share of base completions that hit the token limit
    mismatch_ceiling: float = 0.1  # mean |log-prob of sampler - trainer|
    patience: int = 5  # steps in a row before a rule fires
    action: str = "warn"  # warn | checkpoint (save at once, go on) | stop (save at once, end)


@dataclasses.dataclass(frozen=True)
class Config:
    seed: int = 0  # of weights, order of problems, sampling and draws of anchors
    num_steps: int = 60  # RL steps; 0: the cold start and its evaluation alone
    # RL also ends after the step with which it has sampled this many tokens (see run/budget.py);
    # 0: by num_steps alone.
    max_sampled_tokens: int = 0
    # Start from the parameters of this run directory instead of a cold start ("" does not).
    init_from: str = ""
    model: Model = Model()
    mesh: Mesh = Mesh()
    data: Data = Data()
    cold_start: ColdStart = ColdStart()
    sampling: Sampling = Sampling()
    rollout: Rollout = Rollout()
    correction: Correction = Correction()
    replay: Replay = Replay()
    algorithm: Algorithm = Algorithm()
    optimizer: Optimizer = Optimizer()
    batch: Batch = Batch()
    verifier: Verifier = Verifier()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    health: Health = Health()

    @property
    def num_anchors(self) -> int:
        """Anchors of a step; 0 without a correction stream."""
        if not self.correction.weight:
            return 0
        return round(self.correction.replay_fraction * self.rollout.problems_per_step)


def default_config() -> ConfigDict:
    """The defaults as a locked `ConfigDict`, for config files to change."""
    return ConfigDict(dataclasses.asdict(Config())).lock()


def flatten(config: Config) -> dict[str, Any]:
    """{"section.key": value} for every leaf, in declaration order."""
    flat: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            flat |= {f"{field.name}.{k}": v for k, v in dataclasses.asdict(value).items()}
        else:
            flat[field.name] = value
    return flat


def load_file(name: str, beside: str) -> types.SimpleNamespace:
    """What another config file defines, for a file that builds on it.

    Args:
      name: file name, relative to the directory of `beside`.
      beside: the calling config file's `__file__`.
    """
    path = Path(beside).resolve().parent / name
    return types.SimpleNamespace(**runpy.run_path(str(path)))
