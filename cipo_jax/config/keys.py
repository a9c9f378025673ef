"""The configuration: every key, with its type, the values it may have, its default and its unit.

A config file (`configs/*.py`) starts from `default_config()`, changes what it needs and returns an
`ml_collections.ConfigDict`; the command line overrides single keys with
`--config.section.key=value`. `resolve.py` makes these frozen dataclasses of both, so that no other
code sees a dictionary. The sections of the method are in `method.py`, all others here.

A comment beside a key, or above it where a line is too short, says what the key does, its unit, and
what 0 or "" means. "paper" marks values known from the paper (arXiv 2605.14539) or public summaries
of it; "ours" marks our reading where those are silent.
"""

import dataclasses
from typing import Annotated, Any, Literal

from cipo_jax.config.method import Algorithm, Batch, Correction, Optimizer, Replay, Rollout
from cipo_jax.config.ranges import (
    Allowed,
    CpuDevices,
    Date,
    Directory,
    DirectoryName,
    Limit,
    MeshSize,
    NotNegative,
    Positive,
    PositiveShare,
    Reward,
    Seed,
    Share,
    StepRange,
    YourFunction,
    once,
)

# What is learned from.


@dataclasses.dataclass(frozen=True)
class Data:
    """Problems, tokenizer, prompts."""

    # Problems to train on: "arithmetic", "lists", "programs", "word_problems", "guess" or
    # "colouring" (embedded generators), a jsonl file (local or gs://), "hf:owner/name:split",
    # "tfds:name:split", or several as "a.jsonl=0.7,b.jsonl=0.3"; see data/sources.py.
    train: str = "arithmetic"
    eval: str = "arithmetic"  # problems to evaluate on, written as `train`
    question_column: str = ""  # column of the question; "": question, problem or prompt
    # Column of the reference answer; "": answer, final_answer or expected_answer, else the end of a
    # solution.
    answer_column: str = ""
    tests_column: str = ""  # column of the tests of programs; "": tests
    id_column: str = ""  # column of what names a problem; "": id or the like, else the line number
    # What to leave out of training: "overlap" (questions that `eval` or eval.suites also have),
    # "duplicates" (repeated questions), "too_long" (prompts longer than max_prompt_tokens).
    drop: tuple[Literal["overlap", "duplicates", "too_long"], ...] = ()
    # Consecutive words that two questions must share to overlap; 0: only equal questions do.
    overlap_words: NotNegative[int] = 13
    # Of a generator in `train`: how many problems there are in all; 0: new ones at each step.
    train_problems: NotNegative[int] = 0
    # How many problems of `eval` are used; 0: all (a generator needs a number).
    eval_problems: NotNegative[int] = 256
    # "char" (embedded; "char_code" for "programs", "char_lists" for "lists", "char_words" for
    # "word_problems", "char_guess" for "guess", "char_graphs" for "colouring"), "bytes", "" (that
    # of model.source), a directory of a Hugging Face tokenizer, or a sentencepiece *.model file.
    tokenizer: str = "char"
    # Wrap prompts by the tokenizer's chat template. One that writes the date gets 26 Jul 2024, so
    # that prompts do not change from day to day.
    chat_template: bool = False
    # The chat template's own switch enable_thinking (Qwen3); "" leaves its default.
    thinking: Literal["", "on", "off"] = ""
    # Of base prompts. In both templates, special and added tokens are written by name (`<think>`);
    # in questions and attempts such a name is ordinary text.
    prompt_template: Annotated[str, once("{question}")] = "{question}\n"
    # Of correction prompts. It must not say whether the attempt was right.
    correction_template: Annotated[str, once("{question}"), once("{attempt}")] = (
        "{question}\n{attempt}\nCheck and correct it.\n"
    )
    # Quote an attempt with its thoughts (<think>...</think>); else by what follows them.
    quote_thoughts: bool = False
    max_prompt_tokens: Positive[int] = 24  # of a base prompt; longer problems are refused
    max_attempt_tokens: Positive[int] = 44  # of the quoted attempt; longer ones lose their middle
    max_completion_tokens: Positive[int] = 44  # of a completion, stop token included
    min_operations: Positive[int] = 2  # the fewest operations of a generator's problem
    # The most; at least min_operations, of "word_problems" and "colouring" 6 at most.
    max_operations: int = 5


@dataclasses.dataclass(frozen=True)
class Verifier:
    """Worker processes that judge completions, and what each outcome earns. Pass rates, anchors and
    transitions depend on the outcomes alone."""

    # "code" runs programs in a sandbox; "auto" is code where a problem has tests, else math. For
    # your own function see docs/own_task.md.
    kind: Literal["math", "code", "auto"] | YourFunction = "math"
    workers: NotNegative[int] = 0  # processes on each host; 0: half its cores, from 2 to 32
    # Additional workers that may be started while as many others are stuck on slow items.
    stand_ins: NotNegative[int] = 2
    # Wall time per item; of a program, the limit for all tests unless its problem has its own.
    timeout_seconds: Positive[float] = 10.0
    recycle_after: Positive[int] = 10_000  # items after which a worker is replaced (slow leaks)
    memory_limit_mb: Positive[int] = 2048  # address space of a worker, MiB
    # How "math" finds the answer of a completion: the first rule whose mark is in the text decides
    # ("hashes" is "####"). See verifiers/math/answer.py.
    extraction: Annotated[
        tuple[Literal["boxed", "hashes", "final_answer", "answer", "last_number"], ...],
        Allowed("at least one rule", bool),
    ] = ("boxed", "hashes", "final_answer", "answer")
    reward_correct: Reward = 1.0  # the answer is right; more than any other outcome earns
    reward_wrong: Reward = 0.0  # an answer was read, and is not right
    reward_no_answer: Reward = 0.0  # no answer could be read
    reward_timeout: Reward = 0.0  # the verifier was killed at its deadline
    reward_error: Reward = 0.0  # the verifier failed, and `left_out` does not name "error"
    # Outcomes that say nothing about the policy: completions with these teach nothing, and count in
    # no pass rate and no retention. ("error", "timeout") leaves out timeouts too.
    left_out: tuple[Literal["error", "timeout"], ...] = ("error",)
    # Run all tests of a program even after a failure, and move the reward from that of the outcome
    # towards reward_correct by the share of tests passed. The score of your own function counts in
    # the same way.
    partial_credit: bool = False
    # Run generated programs with resource limits alone where no sandbox is available. They can then
    # read and delete your files and use the network.
    allow_unsandboxed_code: bool = False


# The policy.


@dataclasses.dataclass(frozen=True)
class Model:
    """The policy. With `source` set, shape and weights come from there; the sizes are ignored."""

    # Directory of a Hugging Face checkpoint, or a hub id such as "Qwen/Qwen3-4B" (followed by
    # "@revision" to fix one); "" builds the model below from seed.
    source: str = ""
    num_layers: Positive[int] = 3  # transformer blocks
    d_model: Positive[int] = 64  # width of the residual stream
    num_heads: Positive[int] = 4  # query heads
    num_kv_heads: Positive[int] = 2  # key/value heads, a divisor of num_heads
    # Width of a head.
    head_dim: Annotated[
        Positive[int], Allowed("an even number (for RoPE)", lambda w: w % 2 == 0)
    ] = 16
    mlp_dim: Positive[int] = 192  # hidden width of the gated MLP
    rope_theta: Positive[float] = 10_000.0  # base of the rotary wavelengths
    qk_norm: bool = True  # RMSNorm on queries and keys, as in Qwen3
    tie_embeddings: bool = True  # the head is the embedding, transposed
    # Of weights and first moments. The second moment is float32; bfloat16 weights are rounded at
    # random, so that small updates add up (rl/rounding.py).
    param_dtype: Literal["float32", "bfloat16"] = "float32"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"  # of activations
    # What the backward pass computes again instead of keeping it, from little memory to much:
    # "full" (whole layers), "attention" (all but q, k, v and attention), "dots" (all but products
    # with weights), "none". "auto": the least that fits into a device, see run/remat.py.
    remat: Literal["full", "attention", "dots", "none", "auto"] = "full"
    # Layers a turn of the update's loop. On CPU all of them are fastest; each adds to compile time.
    unroll: Positive[int] = 1


@dataclasses.dataclass(frozen=True)
class ColdStart:
    """Supervised warm-up with the run's optimiser, so that a fresh network gets first rewards."""

    max_steps: NotNegative[int] = 0  # optimiser steps at most; 0 skips the phase
    demonstrations: str = "arithmetic"  # an embedded generator, as in data.train, or a jsonl file
    batch_size: Positive[int] = 96  # demonstrations per step
    correction_share: Share = 0.4  # of generated demonstrations: share that are corrections
    right_share: Share = 0.3  # of generated corrections: share whose previous attempt is right
    # Of generated demonstrations of "guess" and "colouring": share that are neither solutions nor
    # corrections, but parts of solutions, and honest wrong ones.
    practice_share: Share = 0.3
    learning_rate: Positive[float] = 6e-3  # peak; linear warm-up over 20 steps, then constant
    stop_at_pass_rate: Share = 1.0  # ends the phase once pass@1 on held-out problems reaches it
    stop_at_lines_true: Share = 0.0  # and this share of their lines is true; 0: not asked
    check_every: Positive[int] = 50  # steps between those checks
    check_problems: Positive[int] = 128  # held-out problems per check, with one sample each


# How it runs on devices.


@dataclasses.dataclass(frozen=True)
class Sampling:
    """How completions are drawn. The policy gradient assumes the full distribution at temperature
    `temperature`; the trainer scores at the same temperature, and refuses top_k, top_p, min_p and
    min_new_tokens, which are for the other modes."""

    temperature: NotNegative[float] = 1.0  # 0: greedy (not in training)
    top_k: NotNegative[int] = 0  # only the k most likely tokens; 0: all
    top_p: PositiveShare = 1.0  # only the most likely tokens that together have this probability
    min_p: Share = 0.0  # only tokens with at least this share of the likeliest one's probability
    # No stop token before this many, and no stop string that is complete with so few.
    min_new_tokens: NotNegative[int] = 0
    # Tokens that end a completion, besides those of tokenizer and generation_config.json: special
    # and added tokens by name, such as "<|im_end|>" for a base model with a chat template, others
    # by id, as "151645".
    stop_tokens: Annotated[tuple[str, ...], Allowed("names or ids, none empty", all)] = ()
    # Texts that end a completion. A special token by itself stands for the token too; it cannot be
    # a part of a longer text.
    stop_strings: Annotated[tuple[str, ...], Allowed("texts, none empty", all)] = ()
    # Tensor shards while sampling; the other devices then share the sequences. Decoding reads all
    # weights at each step. 0: the fewest with which they take a small share of a device's memory;
    # on CPU as in `mesh`. See run/sizes.py.
    tensor: NotNegative[int] = 0
    # Sequences decoded together; 0: those of a step or of what is asked, as far as the cache goes.
    slots: NotNegative[int] = 0
    chunk: Positive[int] = 16  # decode steps between looks at which sequences have finished
    page_size: Positive[int] = 32  # tokens of a page of the key/value cache; 64 or more on TPU
    # Tokens that the key/value cache holds, over all devices that split rows. 0: every slot at full
    # length, in at most a quarter of a device's memory. When it is full, the youngest sequences are
    # put off and computed again.
    cache_tokens: NotNegative[int] = 0
    # Of the key/value cache; "": model.compute_dtype, on CPU float32.
    cache_dtype: Literal["", "float32", "bfloat16"] = ""
    # Prompts are prefilled in stretches padded to one of these widths; each costs compilations. The
    # largest bounds a stretch. () makes powers of two from 16 to 512.
    prefill_widths: Annotated[
        tuple[int, ...], Allowed("widths > 0", lambda widths: min(widths, default=1) > 0)
    ] = ()
    prefill_tokens: Positive[int] = 4096  # most padded tokens prefilled between two decode chunks
    # Dispatch a chunk before the last one's results are read: the device never waits for the host,
    # but a finished sequence keeps its slot for one chunk more. For accelerators.
    dispatch_ahead: bool = False


@dataclasses.dataclass(frozen=True)
class Mesh:
    """The device mesh. Sizes multiply to the number of devices; -1 (one axis) takes the rest."""

    data: MeshSize = 1  # replicas
    fsdp: MeshSize = -1  # parameter and optimiser shards; rows are split over data x fsdp
    tensor: MeshSize = 1  # shards of heads, MLP and vocabulary
    context: MeshSize = 1  # shards of a row's tokens, for long rows; more of fsdp while sampling
    # Devices that JAX makes of the CPU, in every process; 0: one, or what JAX is told otherwise.
    # Small models are fastest with one for each core, rows split over them (data = -1, fsdp = 1).
    cpu_devices: CpuDevices = 0


# What is measured and kept.


@dataclasses.dataclass(frozen=True)
class Eval:
    """Evaluation before training, every `every` steps, and at the end."""

    at_start: bool = True  # before the first step; else the report has nothing to compare with
    every: NotNegative[int] = 20  # steps between evaluations; 0: not by steps
    # Also each time that this many more tokens have been sampled; 0: not by tokens.
    every_tokens: NotNegative[int] = 0
    samples: Positive[int] = 8  # completions per problem
    pass_at: tuple[int, ...] = (1, 8)  # each k of pass@k, from 1 to `samples`
    # The policy's own attempts per problem that it then corrects; 0: none.
    corrected_attempts: NotNegative[int] = 1
    # Rounds of that: each corrects what the last one gave, and is set against as many tokens spent
    # on independent attempts. Those of 3 rounds need about 4 `samples` to compare with.
    correction_rounds: Positive[int] = 1
    # Given attempts per problem of an embedded task: this many wrong solutions of the generator,
    # and its right one, are to be corrected, the same for every run; 0: none.
    given_attempts: NotNegative[int] = 0
    majority: bool = True  # maj@k in --mode=evaluate; with many samples it takes minutes
    # Benchmarks of --mode=evaluate, see data/benchmarks/suites.py; () evaluates on data.eval.
    suites: tuple[str, ...] = ()
    data_dir: str = ""  # directory with the benchmarks' jsonl files; "" reads the hub
    suite_problems: NotNegative[int] = 0  # how many of each benchmark are used; 0: all
    suite_samples: NotNegative[int] = 0  # completions per problem; 0: as the benchmark's protocol
    suite_temperature: Annotated[
        float,
        Allowed("a temperature >= 0, or -1 for the benchmark's own", lambda v: v == -1 or v >= 0),
    ] = -1.0  # 0: greedy
    released_from: Date = ""  # LiveCodeBench: first release date of its problems; "": any
    released_until: Date = ""  # LiveCodeBench: last release date of its problems; "": any
    check_gold: bool = False  # only verify the benchmarks' own answers and solutions
    name: DirectoryName = ""  # of the directory under evaluations/; "": after the checkpoint


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Which states of a run are saved, and where."""

    every: Positive[int] = 20  # steps between checkpoints; the last step is always saved
    keep: Positive[int] = 2  # newest checkpoints kept
    # Also kept: the best by `best_metric`. A step whose evaluation is among them is saved.
    keep_best: NotNegative[int] = 1
    # A metric of the step or of an evaluation at it; higher is better. Checkpoints of steps that do
    # not have it are not compared.
    best_metric: str = "eval/pass@1"
    directory: Directory = ""  # where checkpoints go, as gs://bucket/run1; "": the run directory


@dataclasses.dataclass(frozen=True)
class Log:
    """What a run records and shows besides its metrics."""

    tensorboard: bool = True  # event files through clu (imports TensorFlow)
    # Project of Weights & Biases that gets the metrics too (pip install 'cipo_jax[wandb]'); "":
    # none. WANDB_MODE=offline keeps them in the run directory.
    wandb: str = ""
    # Steps between attempt/correction pairs on screen; 0: never.
    show_samples_every: NotNegative[int] = 10
    archive: bool = True  # write every attempt to attempts/*.jsonl.gz
    # Steps between comparisons of gradients, see rl/transfer.py (one costs an update); 0: never.
    gradient_stats_every: NotNegative[int] = 0
    # Attempt/correction pairs shown in report.html, spread over the run.
    report_pairs: NotNegative[int] = 2000
    # Directory for compiled programs; "auto": .compiled in the run directory; "": none.
    # JAX_COMPILATION_CACHE_DIR takes precedence.
    compilation_cache: Directory = "auto"
    # Programs that may be compiled after `compile_warmup_steps`; -1: any number. With a limit, JAX
    # explains on stderr what differs from before (jax_explain_cache_misses) once those are over.
    max_compiles_after_warmup: Limit[int] = -1
    # Steps after each start of the process in which compiling is expected.
    compile_warmup_steps: NotNegative[int] = 2
    on_recompile: Literal["warn", "stop"] = "warn"  # when more programs are compiled than that
    heartbeat_seconds: NotNegative[float] = 25.0  # a longer silence is broken by a line; 0: never
    profile_steps: StepRange = ()  # these steps are traced into profile/; (): none


@dataclasses.dataclass(frozen=True)
class Health:
    """Limits whose breach is reported. A limit of -1 switches its rule off."""

    retention_floor: Limit[float] = 0.3  # accuracy of corrections of right attempts
    break_rate_ceiling: Limit[float] = -1.0  # share of right attempts that corrections break
    entropy_floor: Limit[float] = 0.003  # nats per token, base stream
    truncation_ceiling: Limit[float] = 0.3  # share of base completions that hit the token limit
    mismatch_ceiling: Limit[float] = 0.1  # mean |log-prob of sampler - trainer|
    no_answer_ceiling: Limit[float] = 0.5  # share of base completions without a readable answer
    gradient_floor: Limit[float] = 1e-9  # global norm; 0 where nothing can be learned
    # Consecutive steps of a breach before it is reported, the run's first step included.
    patience: Positive[int] = 5
    # "checkpoint" saves at once and continues, "stop" saves at once and ends the run.
    action: Literal["warn", "checkpoint", "stop"] = "warn"


@dataclasses.dataclass(frozen=True)
class Config:
    """All sections. `num_...` properties are counts of one step."""

    seed: Seed = 0  # of weights, order of problems, sampling and draws of anchors
    num_steps: NotNegative[int] = 60  # RL steps; 0: the cold start and its evaluation alone
    # RL also ends after the step in which it has sampled this many tokens (see run/budget.py);
    # 0: by num_steps alone.
    max_sampled_tokens: NotNegative[int] = 0
    init_from: str = ""  # run directory to take parameters from, instead of a cold start; "": none
    data: Data = Data()
    verifier: Verifier = Verifier()
    model: Model = Model()
    cold_start: ColdStart = ColdStart()
    rollout: Rollout = Rollout()
    correction: Correction = Correction()
    replay: Replay = Replay()
    algorithm: Algorithm = Algorithm()
    optimizer: Optimizer = Optimizer()
    batch: Batch = Batch()
    sampling: Sampling = Sampling()
    mesh: Mesh = Mesh()
    eval: Eval = Eval()
    checkpoint: Checkpoint = Checkpoint()
    log: Log = Log()
    health: Health = Health()

    @property
    def num_attempts(self) -> int:
        """Completions of the base stream, without those of dynamic sampling."""
        return self.rollout.problems_per_step * self.rollout.group_size

    @property
    def num_anchors(self) -> int:
        """Attempts that are put back to be corrected."""
        k = self.correction
        return round(k.replay_fraction * self.rollout.problems_per_step) if k.weight else 0

    @property
    def anchor_counts(self) -> tuple[int, int]:
        """Of them, attempts of the base stream, and corrections of these."""
        second = round(self.correction.from_corrections * self.num_anchors)
        return self.num_anchors - second, second

    @property
    def num_corrections(self) -> int:
        """Completions of the correction stream."""
        return self.num_anchors * self.correction.group_size

    @property
    def num_updates(self) -> int:
        """Optimiser updates."""
        return self.batch.minibatches * self.batch.epochs


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
