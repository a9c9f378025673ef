"""The benchmarks: one declarative record each, and how their rows are loaded.

A record says where the data come from, how a row becomes a problem, how it is asked, and how many
samples are drawn at which temperature for which metric, after the benchmark's own protocol (the
source is named). `load_suite` reads it from the hub, or from a file of `config.eval.data_dir`.
Templates hold {question} (and {attempt}), as in `config.data`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path

from cipo_jax.data.benchmarks.livecodebench import livecodebench_item
from cipo_jax.data.benchmarks.rows import (
    Item,
    NoTestsError,
    critique_item,
    debugbench_item,
    given_item,
    humaneval_item,
    math_item,
    mbpp_item,
)
from cipo_jax.data.rows import HubSource, Row, read_file, read_hub
from cipo_jax.types import CipoError

SOLVE, CORRECT, CRITIQUE = "solve", "correct", "critique"

_MATH = "{question}\n\nReason step by step, and put the final answer within \\boxed{}."
_PROGRAM = "{question}\n\nAnswer with one Python program in a code block."
_COMPLETE = (
    "Complete this Python function. Answer with the whole function in a code block.\n\n"
    "```python\n{question}\n```"
)
_MATH_CORRECTION = (
    "{question}\n\nHere is an earlier attempt at this problem. It may be right or wrong.\n\n"
    "--- attempt ---\n{attempt}\n--- end of attempt ---\n\n"
    "Check the attempt step by step. Then give a complete, corrected solution, and put the "
    "final answer within \\boxed{}."
)
_PROGRAM_CORRECTION = (
    "{question}\n\nHere is an earlier program for this problem. It may be right or wrong.\n\n"
    "{attempt}\n\nCheck it. Then give the complete, corrected program in one code block."
)
_CRITIQUE = (
    "{question}\n\nIs the proposed solution right? Check it step by step. Then put your verdict, "
    "correct or incorrect, within \\boxed{}."
)


@dataclasses.dataclass(frozen=True)
class Suite:
    """A benchmark.

    Attributes:
      name: as in `config.eval.suites`.
      files: names it may have in a data directory, without endings.
      hub: where it is on the Hugging Face hub; None if it is not there.
      item: makes an `Item` of a row; None for problems that are not read from rows.
      protocol: where samples, temperature and metric come from.
      task: "solve", "correct" (a given attempt) or "critique" (is a given attempt right?).
      prompt: template of a first attempt, or of the critique.
      correction_prompt: template of a correction.
      samples: completions per problem.
      temperature: 0 is greedy.
      pass_at: the k of pass@k; those above the samples drawn are left out.
      keep: whether a row belongs to the suite; None keeps all.
    """

    name: str
    files: tuple[str, ...]
    hub: HubSource | None
    item: Callable[[Row], Item] | None
    protocol: str
    task: str = SOLVE
    prompt: str = _MATH
    correction_prompt: str = _MATH_CORRECTION
    samples: int = 1
    temperature: float = 0.0
    pass_at: tuple[int, ...] = (1,)
    keep: Callable[[Row], bool] | None = None


@dataclasses.dataclass(frozen=True)
class LoadedSuite:
    """A suite with its items, and the rows that could not be used, each with the reason."""

    suite: Suite
    source: str  # the file, or the hub's id and split
    items: list[Item]
    skipped: list[str]


def load_suite(
    name: str,
    data_dir: str = "",
    first: int = 0,
    released_from: str = "",
    released_until: str = "",
) -> LoadedSuite:
    """Loads a suite and checks every row.

    Args:
      name: of a suite.
      data_dir: a directory with its file, there or one level below; "" reads from the hub.
      first: how many items are used; 0: all.
      released_from, released_until: ISO dates, both included, that `contest_date` must lie
        between ("" is open). For suites whose rows have dates.

    Raises:
      CipoError: no such suite or file; a row that is wrong, with its file and line; two rows with
        one id; no rows at all.
    """
    if name not in SUITES:
        raise CipoError(f"config.eval.suites: got {name!r}, wanted some of {', '.join(SUITES)}")
    suite = SUITES[name]
    source = _find_file(suite, Path(data_dir)) if data_dir else suite.hub
    if source is None or suite.item is None:
        raise CipoError(
            f"config.eval.data_dir: got '', wanted a directory with {suite.files[0]}.jsonl: {name} "
            "is not on the hub"
        )
    rows: Iterable[Row] = read_hub(source) if isinstance(source, HubSource) else read_file(source)
    windowed = bool(released_from or released_until)
    where_of_id: dict[str, str] = {}
    items: list[Item] = []
    skipped: list[str] = []
    for row in rows:
        if suite.keep is not None and not suite.keep(row):
            continue
        if not _in_window(row, released_from, released_until):
            continue
        try:
            item = suite.item(row)
        except NoTestsError as error:
            skipped.append(str(error))
            continue
        problem_id = item.problem.id
        if problem_id in where_of_id:
            raise CipoError(
                f"{row.where}: id: {problem_id!r} is also the id of {where_of_id[problem_id]}; "
                "wanted a different one for each row"
            )
        where_of_id[problem_id] = row.where
        items.append(item)
    if not items:
        raise CipoError(
            f"config.eval.suites: {name}: no problems in {source}"
            + (f" released {released_from or '...'} to {released_until or '...'}" * windowed)
            + (f"; {len(skipped)} rows had no tests" if skipped else "")
        )
    where = f"{source.name}[{source.split}]" if isinstance(source, HubSource) else str(source)
    return LoadedSuite(suite, where, items[:first] if first else items, skipped)


def _find_file(suite: Suite, data_dir: Path) -> Path:
    if not data_dir.is_dir():
        raise CipoError(f"config.eval.data_dir: got {str(data_dir)!r}, wanted a directory")
    for stem in suite.files:
        for ending in (".jsonl", ".jsonl.gz", ".json"):
            for path in (data_dir / (stem + ending), *sorted(data_dir.glob(f"*/{stem}{ending}"))):
                if path.is_file():
                    return path
    raise CipoError(
        f"config.eval.data_dir: {data_dir} has no file for {suite.name}; wanted "
        f"{' or '.join(f'{stem}.jsonl' for stem in suite.files)} in it or in a directory of it"
    )


def _in_window(row: Row, start: str, end: str) -> bool:
    date = row.columns.get("contest_date")
    if not (start or end) or date is None:
        return True
    # Either a datetime or its ISO text: the first ten characters are the day.
    day = str(date)[:10]
    return (not start or day >= start) and (not end or day <= end)


def _from_sources(*names: str) -> Callable[[Row], bool]:
    """CriticBench mixes 15 data sets; files in the project's normal form name none of them."""
    return lambda row: row.columns.get("question_source") in (None, *names)


def _is_python(row: Row) -> bool:
    return row.columns.get("language", "python3") == "python3"


def _critique(row: Row) -> Item:
    return critique_item(given_item(row))


_CRITICBENCH = HubSource("llm-agents/CriticBench")
_CRITIC_PROTOCOL = "CriticBench (arXiv 2402.14809): greedy, one sample; F1 of the label 'wrong'"
_CRITIC_MATH = _from_sources("GSM8K", "MATH", "AQuA", "TabMWP")
_CRITIC_CODE = _from_sources("HumanEval", "MBPP")
_AVERAGED = "small contest: 32 samples at 0.6, averaged, as DeepSeek-R1 (arXiv 2501.12948) does"
_GREEDY = "greedy pass@1, as Qwen2.5-Math's evaluation (arXiv 2409.12122)"

_ALL = (
    Suite(
        "aime24",
        ("aime24",),
        HubSource("HuggingFaceH4/aime_2024", "train"),
        math_item,
        _AVERAGED,
        samples=32,
        temperature=0.6,
        pass_at=(1, 8, 32),
    ),
    Suite(
        "aime25",
        ("aime25",),
        HubSource("math-ai/aime25"),
        math_item,
        _AVERAGED,
        samples=32,
        temperature=0.6,
        pass_at=(1, 8, 32),
    ),
    Suite(
        "amc23",
        ("amc23",),
        HubSource("math-ai/amc23"),
        math_item,
        _AVERAGED,
        samples=32,
        temperature=0.6,
        pass_at=(1, 8, 32),
    ),
    Suite("math500", ("math500",), HubSource("HuggingFaceH4/MATH-500"), math_item, _GREEDY),
    Suite(
        "minerva", ("minerva_math", "minerva"), HubSource("math-ai/minervamath"), math_item, _GREEDY
    ),
    Suite(
        "olympiadbench",
        ("olympiadbench",),
        HubSource("Hothan/OlympiadBench", "train", "OE_TO_maths_en_COMP"),
        math_item,
        _GREEDY,
    ),
    Suite(
        "livecodebench",
        ("livecodebench", "lcb_fewshot"),
        HubSource("livecodebench/code_generation_lite", files="test*.jsonl"),
        livecodebench_item,
        "LiveCodeBench (arXiv 2403.07974): 10 samples at 0.2, pass@1",
        prompt=_PROGRAM,
        correction_prompt=_PROGRAM_CORRECTION,
        samples=10,
        temperature=0.2,
        pass_at=(1, 5),
    ),
    Suite(
        "humaneval",
        ("humaneval",),
        HubSource("openai/openai_humaneval"),
        humaneval_item,
        "greedy pass@1, as EvalPlus (arXiv 2305.01210)",
        prompt=_COMPLETE,
        correction_prompt=_PROGRAM_CORRECTION,
    ),
    Suite(
        "humaneval_plus",
        ("humaneval_plus",),
        HubSource("evalplus/humanevalplus"),
        humaneval_item,
        "greedy pass@1, as EvalPlus (arXiv 2305.01210)",
        prompt=_COMPLETE,
        correction_prompt=_PROGRAM_CORRECTION,
    ),
    Suite(
        "mbpp",
        ("mbpp", "mbpp_test"),
        HubSource("google-research-datasets/mbpp", "test", "full"),
        mbpp_item,
        "the tests are shown (arXiv 2108.07732); greedy pass@1",
        prompt=_PROGRAM,
        correction_prompt=_PROGRAM_CORRECTION,
    ),
    Suite(
        "mbpp_plus",
        ("mbpp_plus",),
        HubSource("evalplus/mbppplus"),
        mbpp_item,
        "greedy pass@1, as EvalPlus (arXiv 2305.01210)",
        prompt=_PROGRAM,
        correction_prompt=_PROGRAM_CORRECTION,
    ),
    Suite(
        "criticbench_math",
        ("criticbench_math", "criticbench"),
        _CRITICBENCH,
        given_item,
        _CRITIC_PROTOCOL,
        task=CORRECT,
        keep=_CRITIC_MATH,
    ),
    Suite(
        "criticbench_code",
        ("criticbench_code", "criticbench"),
        _CRITICBENCH,
        given_item,
        _CRITIC_PROTOCOL,
        task=CORRECT,
        correction_prompt=_PROGRAM_CORRECTION,
        keep=_CRITIC_CODE,
    ),
    Suite(
        "criticbench_math_critique",
        ("criticbench_math", "criticbench"),
        _CRITICBENCH,
        _critique,
        _CRITIC_PROTOCOL,
        task=CRITIQUE,
        prompt=_CRITIQUE,
        keep=_CRITIC_MATH,
    ),
    Suite(
        "criticbench_code_critique",
        ("criticbench_code", "criticbench"),
        _CRITICBENCH,
        _critique,
        _CRITIC_PROTOCOL,
        task=CRITIQUE,
        prompt=_CRITIQUE,
        keep=_CRITIC_CODE,
    ),
    Suite(
        "debugbench",
        ("debugbench", "debugbench_python3"),
        HubSource("Rtian/DebugBench"),
        debugbench_item,
        "DebugBench (arXiv 2401.04621): zero-shot pass rate of the repaired program; here on the "
        "public examples, the hidden tests are LeetCode's",
        task=CORRECT,
        correction_prompt=_PROGRAM_CORRECTION,
        keep=_is_python,
    ),
    # Given attempts of released models, in the project's normal form; not on the hub.
    Suite(
        "gsm8k_given",
        ("gsm8k_model_solutions",),
        None,
        given_item,
        "ours: greedy corrections of released solutions (github.com/openai/grade-school-math)",
        task=CORRECT,
    ),
    Suite(
        "math_given",
        ("qwen_math_cot",),
        None,
        given_item,
        "ours: greedy corrections of released MATH samples (github.com/QwenLM/Qwen2.5-Math)",
        task=CORRECT,
    ),
    Suite(
        "humaneval_given",
        ("codegen16b_humaneval",),
        None,
        given_item,
        "ours: greedy corrections of released HumanEval samples (github.com/microsoft/CodeT)",
        task=CORRECT,
        correction_prompt=_PROGRAM_CORRECTION,
    ),
)
SUITES = {suite.name: suite for suite in _ALL}
