"""The benchmarks: one declarative record each, and how their rows are loaded.

A record (`Suite`) follows the benchmark's own protocol, and names its source. `load_suite` reads
its rows from the hub, or from a file of `config.eval.data_dir`. Templates hold {question} (and
{attempt}), as in `config.data`. How rows become problems is decided in `rows.py`.
"""

import dataclasses
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from cipo_jax.config.ranges import did_you_mean
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
    minerva_item,
)
from cipo_jax.data.rows import HubSource, Row, read_file, read_hub
from cipo_jax.data.tokenizer import Tokenizer
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
    """A benchmark."""

    name: str  # as in `config.eval.suites`
    files: tuple[str, ...]  # names it may have in a data directory, without endings
    hub: HubSource | None  # where it is on the Hugging Face hub; None if it is not there
    item: Callable[[Row], Item] | None  # makes an `Item` of a row; None: problems without rows
    protocol: str  # where samples, temperature and metric come from
    task: str = SOLVE  # "solve", "correct" (a given attempt) or "critique" (is one right?)
    prompt: str = _MATH  # template of a first attempt, or of the critique
    correction_prompt: str = _MATH_CORRECTION
    samples: int = 1  # completions per problem
    temperature: float = 0.0  # 0 is greedy
    pass_at: tuple[int, ...] = (1,)  # the k of pass@k; those above the samples drawn are left out
    keep: Callable[[Row], bool] | None = None  # does a row belong to the suite? None keeps all


@dataclasses.dataclass(frozen=True)
class LoadedSuite:
    """A suite with its items, and the rows that could not be used, each with the reason."""

    suite: Suite
    source: str  # the file, or the hub's id and split
    items: list[Item]
    skipped: list[str]


def load_suite(
    name: str, data_dir: str = "", first: int = 0, released_from: str = "", released_until: str = ""
) -> LoadedSuite:
    """Loads a suite and checks every row.

    Args:
      data_dir: a directory with its file, there or one level below; "" reads from the hub.
      first: how many items are used; 0: all.
      released_from, released_until: ISO dates, the first and the last `contest_date` that counts
        ("" is open). Rows without a date are kept.

    Raises:
      CipoError: no such suite or file; a row that is wrong, with its file and line; two rows with
        one id; no rows at all.
    """
    source = find_suite(name, data_dir)
    suite = SUITES[name]
    assert suite.item is not None, name
    rows: Iterable[Row] = read_hub(source) if isinstance(source, HubSource) else read_file(source)
    items: dict[str, Item] = {}  # by the problem's id
    skipped: list[str] = []
    for row in rows:
        is_kept = suite.keep is None or suite.keep(row)
        if not is_kept or not _in_window(row, released_from, released_until):
            continue
        try:
            item = suite.item(row)
        except NoTestsError as error:
            skipped.append(str(error))
            continue
        problem_id = item.problem.id
        if problem_id in items:
            raise CipoError(
                f"{row.where}: id: {problem_id!r} is also the id of {items[problem_id].where}; "
                "wanted a different one for each row"
            )
        items[problem_id] = item
    if not items:
        raise CipoError(
            f"config.eval.suites: {name}: no problems in {source}"
            + f" released {released_from or '...'} to {released_until or '...'}"
            * bool(released_from or released_until)
            + (f"; {len(skipped)} rows had no tests" if skipped else "")
        )
    where = f"{source.name}[{source.split}]" if isinstance(source, HubSource) else str(source)
    return LoadedSuite(suite, where, list(items.values())[: first or None], skipped)


def find_suite(name: str, data_dir: str = "") -> Path | HubSource:
    """Where `load_suite` reads a suite; nothing is read.

    Raises:
      CipoError: no such suite or file, or it is not on the hub.
    """
    if name not in SUITES:
        hint = did_you_mean(name, list(SUITES))
        raise CipoError(
            f"config.eval.suites: got {name!r}, wanted some of {', '.join(SUITES)}{hint}"
        )
    suite = SUITES[name]
    source = _find_file(suite, Path(data_dir)) if data_dir else suite.hub
    if source is None:
        raise CipoError(
            f"config.eval.data_dir: got '', wanted a directory with {suite.files[0]}.jsonl: {name} "
            "is not on the hub"
        )
    return source


def check_writable(names: Iterable[str], tokenizer: Tokenizer, called: str) -> None:
    """Whether a tokenizer can write the templates of some suites; nothing is read.

    Args:
      called: the tokenizer, as `data.tokenizer`.

    Raises:
      CipoError: it cannot: it is one of an embedded task.
    """
    for suite in (SUITES[name] for name in names):
        try:
            tokenizer.encode(suite.correction_prompt if suite.task == CORRECT else suite.prompt)
        except CipoError as error:
            raise CipoError(
                f"config.eval.suites: {suite.name}: its prompts cannot be written with "
                f"data.tokenizer={called!r}, which this model uses; evaluate one that reads any "
                "text, such as --config.model.source=Qwen/Qwen3-4B with --config.data.tokenizer=, "
                "or leave config.eval.suites empty for the run's own problems"
            ) from error


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


_EVALPLUS = "greedy pass@1, as EvalPlus (arXiv 2305.01210)"
_CONTEST: dict[str, Any] = {
    "item": math_item,
    "protocol": "small contest: 32 samples at 0.6, averaged, as DeepSeek-R1 (arXiv 2501.12948) "
    "does",
    "samples": 32,
    "temperature": 0.6,
    "pass_at": (1, 8, 32),
}
_GREEDY: dict[str, Any] = {
    "item": math_item,
    "protocol": "greedy pass@1, as Qwen2.5-Math's evaluation (arXiv 2409.12122)",
}
_PROGRAMS: dict[str, Any] = {"prompt": _PROGRAM, "correction_prompt": _PROGRAM_CORRECTION}
_FUNCTIONS: dict[str, Any] = {
    "item": humaneval_item,
    "protocol": _EVALPLUS,
    "prompt": _COMPLETE,
    "correction_prompt": _PROGRAM_CORRECTION,
}
_CRITICBENCH: dict[str, Any] = {
    "hub": HubSource("llm-agents/CriticBench"),
    "protocol": "CriticBench (arXiv 2402.14809): greedy, one sample; F1 of the label 'wrong'",
}
_CRITIC_MATH: dict[str, Any] = {
    **_CRITICBENCH,
    "files": ("criticbench_math", "criticbench"),
    "keep": _from_sources("GSM8K", "MATH", "AQuA", "TabMWP"),
}
_CRITIC_CODE: dict[str, Any] = {
    **_CRITICBENCH,
    "files": ("criticbench_code", "criticbench"),
    "keep": _from_sources("HumanEval", "MBPP"),
}
_GIVEN: dict[str, Any] = {"item": given_item, "task": CORRECT}
_CRITIQUED: dict[str, Any] = {"item": _critique, "task": CRITIQUE, "prompt": _CRITIQUE}


def _given(name: str, file: str, what: str, project: str, prompt: str = _MATH_CORRECTION) -> Suite:
    """Given attempts of released models, in the project's normal form; not on the hub."""
    protocol = f"ours: greedy corrections of released {what} (github.com/{project})"
    return Suite(name, (file,), None, protocol=protocol, correction_prompt=prompt, **_GIVEN)


_ALL = (
    Suite("aime24", ("aime24",), HubSource("HuggingFaceH4/aime_2024", "train"), **_CONTEST),
    Suite("aime25", ("aime25",), HubSource("math-ai/aime25"), **_CONTEST),
    Suite("amc23", ("amc23",), HubSource("math-ai/amc23"), **_CONTEST),
    Suite("math500", ("math500",), HubSource("HuggingFaceH4/MATH-500"), **_GREEDY),
    Suite(
        "gsm8k",
        ("gsm8k", "gsm8k_test"),
        HubSource("openai/gsm8k", "test", "main"),
        math_item,
        "greedy pass@1 without examples; published figures mostly show the model 5 or 8",
    ),
    Suite(
        "minerva",
        ("minerva_math", "minerva"),
        HubSource("math-ai/minervamath"),
        **{**_GREEDY, "item": minerva_item},
    ),
    Suite(
        "olympiadbench",
        ("olympiadbench",),
        HubSource("Hothan/OlympiadBench", "train", "OE_TO_maths_en_COMP"),
        **_GREEDY,
    ),
    Suite(
        "livecodebench",
        ("livecodebench", "lcb_fewshot"),
        HubSource("livecodebench/code_generation_lite", files="test*.jsonl"),
        livecodebench_item,
        "LiveCodeBench (arXiv 2403.07974): 10 samples at 0.2, pass@1",
        samples=10,
        temperature=0.2,
        pass_at=(1, 5),
        **_PROGRAMS,
    ),
    Suite("humaneval", ("humaneval",), HubSource("openai/openai_humaneval"), **_FUNCTIONS),
    Suite("humaneval_plus", ("humaneval_plus",), HubSource("evalplus/humanevalplus"), **_FUNCTIONS),
    Suite(
        "mbpp",
        ("mbpp", "mbpp_test"),
        HubSource("google-research-datasets/mbpp", "test", "full"),
        mbpp_item,
        "the tests are shown (arXiv 2108.07732); greedy pass@1",
        **_PROGRAMS,
    ),
    Suite(
        "mbpp_plus",
        ("mbpp_plus",),
        HubSource("evalplus/mbppplus"),
        mbpp_item,
        _EVALPLUS,
        **_PROGRAMS,
    ),
    Suite("criticbench_math", **_CRITIC_MATH, **_GIVEN),
    Suite("criticbench_code", **_CRITIC_CODE, **_GIVEN, correction_prompt=_PROGRAM_CORRECTION),
    Suite("criticbench_math_critique", **_CRITIC_MATH, **_CRITIQUED),
    Suite("criticbench_code_critique", **_CRITIC_CODE, **_CRITIQUED),
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
    _given("gsm8k_given", "gsm8k_model_solutions", "solutions", "openai/grade-school-math"),
    _given("math_given", "qwen_math_cot", "MATH samples", "QwenLM/Qwen2.5-Math"),
    _given(
        "humaneval_given",
        "codegen16b_humaneval",
        "HumanEval samples",
        "microsoft/CodeT",
        _PROGRAM_CORRECTION,
    ),
)
SUITES = {suite.name: suite for suite in _ALL}
