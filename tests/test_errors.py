"""What users get wrong most: one paragraph that names the place and the fix, exit status 2.

Each case is a command line as it would be typed, run through `main`. Files it names are those of
`FILES`, in the working directory.
"""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from places import ROOT

from cipo_jax.config.resolve import provenance, resolve
from cipo_jax.main import main
from cipo_jax.run.records.files import write_json
from cipo_jax.run.records.lock import DirectoryLock
from cipo_jax.types import CipoError

TINY = "--config=tiny.py"
DEMO = f"--config={ROOT / 'configs' / 'demo.py'}"
STUDY = ROOT / "configs" / "studies" / "quick.py"
GOOD = ("--config.data.train=good.jsonl", "--config.data.eval=good.jsonl")

QWEN3 = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "head_dim": 8,
    "hidden_act": "silu",
    "hidden_size": 16,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
    "num_attention_heads": 2,
    "num_hidden_layers": 1,
    "num_key_value_heads": 1,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "vocab_size": 400,
}
TWO_LINES = '{"question": "1+1=", "answer": "2"}\n{"question": "1+2=", "answer": "3"}\n'
_SETS = (
    "from cipo_jax.config import default_config\n"
    "def get_config():\n    c = default_config()\n    c.{}\n    return c\n"
)
FILES = {
    # A row for each of the suite's eight devices.
    "tiny.py": (
        "from cipo_jax.config import load_file\n"
        "def get_config():\n"
        f"    c = load_file('tiny_run.py', beside={__file__!r}).get_config()\n"
        "    c.batch.microbatch_rows = 8\n"
        "    return c\n"
    ),
    "good.jsonl": TWO_LINES * 4,
    "broken.jsonl": TWO_LINES + '{"question": "1+3=", "answer"\n',
    "empty.jsonl": "",
    "no_answer.jsonl": '{"question": "1+1="}\n',
    "no_question.jsonl": '{"text": "1+1=", "answer": "2"}\n',
    "no_tests.jsonl": '{"question": "f", "tests": {"type": "stdio"}}\n',
    "long.jsonl": json.dumps({"question": "1+" * 40 + "1=", "answer": "41"}) + "\n",
    "foreign.jsonl": json.dumps({"question": "Wie groß?", "answer": "2"}) + "\n",
    "table.csv": "question,answer\n1+1=,2\n",
    "syntax.py": "def get_config(:\n",
    "no_function.py": "config = 3\n",
    "no_config.py": "def get_config():\n    return 3\n",
    "bad_import.py": "import no_such_module\n",
    "takes_arguments.py": "def get_config(a, b):\n    return a\n",
    "bad_value.py": _SETS.format("num_steps = 'many'"),
    "bad_key.py": _SETS.format("rollout.grup_size = 3"),
    "config.yaml": "seed: 1\n",
    "bad.model": "not a sentencepiece model",
    "verifier_syntax.py": "def verify(:\n",
    "verifier_arguments.py": "def verify(text): return True\n",
    "neox/config.json": json.dumps({"model_type": "gpt_neox", "architectures": ["GPTNeoX"]}),
    "short/config.json": json.dumps(QWEN3),
    "no_weights/config.json": json.dumps(QWEN3 | {"max_position_embeddings": 1024}),
    "small/config.json": json.dumps(QWEN3 | {"vocab_size": 20}),
    "no_files/README.md": "",
    "a_file": "",
    "own_words/config.json": json.dumps(QWEN3),
    "own_words/tokenizer.json": "{}",
    "bad_run/config.json": "{",
    "flat_run/config.json": '{"seed": 3}',
    "bad_value_run/config.json": '{"seed": {"value": "one", "source": "file"}}',
    "damaged_run/metrics.jsonl": '{"phase": "train", "step": 1}\n{"phase": "train", "step": 5}\n',
    "damaged_archive/attempts/train-000001.jsonl.gz": "no gzip",
}

# (command line, what is wrong, what would be right): all of it is found in the message.
MISTAKES: dict[str, tuple[list[str], str, str]] = {
    # The command itself.
    "no config": ([], "--config is missing", "--config=configs/demo.py"),
    "unknown mode": ([TINY, "--mode=trian"], "trian", "train"),
    "two modes": (
        [TINY, "--mode=data", "--mode", "explain"],
        "--mode: got 'data' and 'explain'",
        "wanted one of them",
    ),
    "misspelt mode": ([TINY, "--mode=evalute"], "--mode: got 'evalute'", "mean 'evaluate'?"),
    "number with its unit": (
        [TINY, "--mode=preflight", "--device_memory=16GB"],
        "--device_memory: got '16GB'",
        "wanted a number: GiB",
    ),
    "unknown flag": ([TINY, "--workdr=x"], "workdr", "workdir"),
    "stray argument": ([TINY, "seed=3"], "seed=3", "--config.section.key=value"),
    "mode without its flag": ([TINY, "explain"], "['explain']", "mean --mode=explain?"),
    "config without its flag": (["tiny.py"], "['tiny.py']", "mean --config=tiny.py?"),
    "number as text": ([TINY, "--samples=many"], "samples", "many"),
    "missing config file": (
        ["--config=nowhere.py"],
        "nowhere.py: there is no such",
        "are bad_import.py",
    ),
    "config is a directory": (["--config=no_files"], "no_files", "Python file"),
    "config is yaml": (["--config=config.yaml"], "config.yaml", "get_config()"),
    "config has a syntax error": (["--config=syntax.py"], "syntax.py", "line 1"),
    "config without get_config": (["--config=no_function.py"], "no_function.py", "get_config"),
    "config returns something else": (["--config=no_config.py"], "no_config.py", "ConfigDict"),
    "config imports what is missing": (["--config=bad_import.py"], "bad_import.py", "no_such"),
    "config with arguments": (
        ["--config=takes_arguments.py"],
        "takes_arguments.py: get_config() missing 2",
        "wanted get_config()",
    ),
    "config sets another type": (
        ["--config=bad_value.py"],
        "bad_value.py: line 4: num_steps: got 'many'",
        "wanted int",
    ),
    "config sets no key": (
        ["--config=bad_key.py"],
        "bad_key.py: line 4: grup_size: unknown key",
        "did you mean 'group_size'?",
    ),
    "misspelt config file": (["--config=tinny.py"], "tinny.py", "did you mean tiny.py?"),
    "unknown variant": ([f"{DEMO}:grpoo"], "'grpoo'", "grpo, "),
    "misspelt variant": ([f"{DEMO}:grop"], "'grop'", "did you mean 'grpo'?"),
    "variant of a config without": (["--config=tiny.py:grpo"], "no variants", "leave out ':grpo'"),
    "nothing as a directory": (
        [TINY, "--workdir="],
        "--workdir: got nothing",
        "a variable of the shell unset",
    ),
    "nothing as a file": ([TINY, "--mode=data", "--output="], "--output: got nothing", "a path"),
    # Keys and values.
    "misspelt key": ([TINY, "--config.rollout.grup_size=4"], "grup_size", "rollout.group_size"),
    "misspelt section": ([TINY, "--config.rolout.group_size=4"], "rolout", "rollout.group_size"),
    "section as a value": (
        [TINY, "--config.rollout=3"],
        "is a section",
        "rollout.problems_per_step",
    ),
    "word for a number": ([TINY, "--config.seed=one"], "seed: got 'one'", "wanted int"),
    "word for a switch": ([TINY, "--config.replay.adaptive=maybe"], "'maybe'", "wanted bool"),
    "half a tuple": ([TINY, "--config.eval.pass_at=(1,"], "pass_at: got '(1,'", "tuple"),
    "negative number": ([TINY, "--config.num_steps=-1"], "config.num_steps: got -1", ">= 0"),
    "unknown choice": ([TINY, "--config.optimizer.name=adam"], "'adam'", "'adamw'"),
    "key without its section": (
        [TINY, "--config.group_size=4"],
        "config.group_size",
        "group_size?",
    ),
    "misspelt choice": (
        [TINY, "--config.algorithm.aggregation=token"],
        "aggregation: got 'token'",
        "did you mean 'token_mean'?",
    ),
    "misspelt verifier": ([TINY, "--config.verifier=cod"], "kind: got 'cod'", "mean 'code'?"),
    "misspelt rule": ([TINY, "--config.verifier.extraction=('box',)"], "'box'", "'boxed'"),
    "no rule": ([TINY, "--config.verifier.extraction=()"], "extraction", "at least one"),
    "reward for wrong answers": (
        [TINY, "--config.verifier.reward_wrong=1.0"],
        "reward_correct: got 1.0",
        "more than any other",
    ),
    "group of one": ([TINY, "--config.rollout.group_size=1"], "group_size: got 1", ">= 2"),
    "risk without effect": (
        [TINY, "--config.algorithm.correction_advantage_norm=group"],
        "lambda_risk",
        "'group_unshaped_std'",
    ),
    "greedy training": ([TINY, "--config.sampling.temperature=0"], "temperature", "> 0"),
    "truncated sampling in training": ([TINY, "--config.sampling.top_k=5"], "top_k", "wanted 0"),
    # Tokenizer and model.
    "no such tokenizer": ([TINY, "--config.data.tokenizer=nowhere"], "nowhere", "directory"),
    "no tokenizer": (
        [TINY, "--config.data.tokenizer="],
        "data.tokenizer: got ''",
        "Hugging Face tokenizer files",
    ),
    "misspelt tokenizer": ([TINY, "--config.data.tokenizer=byte"], "'byte'", "mean 'bytes'?"),
    "tokenizer is no model": ([TINY, "--config.data.tokenizer=bad.model"], "bad.model", "sentence"),
    "tokenizer without files": (
        [TINY, "--config.data.tokenizer=no_files"],
        "no_files holds no tokenizer",
        "looked for tokenizer.json, tokenizer.model",
    ),
    "no chat template": ([TINY, "--config.data.chat_template=True"], "chat_template", "False"),
    "no such model": ([TINY, "--config.model.source=nowhere"], "nowhere", "Qwen/Qwen3-4B"),
    "model not on the hub": ([TINY, "--config.model.source=a/b"], "'a/b'", "HF_HUB_OFFLINE"),
    "model without files": ([TINY, "--config.model.source=no_files"], "no_files", "config.json"),
    "unknown architecture": ([TINY, "--config.model.source=neox"], "GPTNeoX", "Qwen3For"),
    "tokenizer of another model": ([TINY, "--config.model.source=small"], "20", "belongs"),
    "run as a model": (
        [TINY, "--config.model.source=other_run"],
        "'other_run' is the directory of a run",
        "--mode=export",
    ),
    "characters for a model with words": (
        [TINY, "--config.model.source=own_words"],
        "tokenizer: got 'char', but the model in 'own_words'",
        "--config.data.tokenizer=",
    ),
    "model without weights": (
        [TINY, "--config.model.source=no_weights"],
        "no_weights: wanted model.safetensors",
        "found neither",
    ),
    "longer than the model": ([TINY, "--config.model.source=short"], "64 positions", "max_"),
    # Data.
    "missing data": ([TINY, "--config.data.train=nowhere.jsonl"], "nowhere.jsonl", "data.train"),
    "more to evaluate on than there is": (
        [TINY, *GOOD, "--config.data.eval_problems=300", "--config.cold_start.max_steps=0"],
        "config.data.eval_problems: got 300 problems",
        "wanted at most the 8",
    ),
    "more to check than there is": (
        [TINY, *GOOD, "--config.data.eval_problems=8", "--config.cold_start.max_steps=1"]
        + ["--config.cold_start.check_problems=99"],
        "config.cold_start.check_problems: got 99 problems",
        "wanted at most the 8 there are\n",
    ),
    "broken line": ([TINY, "--config.data.train=broken.jsonl"], "broken.jsonl:3", "json"),
    "empty data": (
        [TINY, "--config.data.train=empty.jsonl"],
        "empty.jsonl: the file is empty",
        "one json object",
    ),
    "data on the web": (
        [TINY, "--config.data.train=https://a.org/train.jsonl"],
        "config.data.train: https://a.org/train.jsonl",
        "wanted a local file",
    ),
    "demonstrations without solutions": (
        [TINY, *GOOD, "--config.cold_start.max_steps=1"]
        + ["--config.cold_start.demonstrations=good.jsonl"],
        "config.cold_start.demonstrations: good.jsonl:1: solution: missing",
        "other columns: answer",
    ),
    "no answer": (
        [TINY, "--config.data.train=no_answer.jsonl"],
        "no_answer.jsonl:1",
        "no other column",
    ),
    "no question": ([TINY, "--config.data.train=no_question.jsonl"], ":1", "question_column"),
    "column that is not there": (
        [TINY, *GOOD, "--config.data.question_column=query"],
        "query",
        "question",
    ),
    "data is a directory": ([TINY, "--config.data.train=no_files"], "no_files", "jsonl"),
    "data is csv": ([TINY, "--config.data.train=table.csv"], "table.csv:1", "JSON"),
    "kept problems over their source": (
        [TINY, *GOOD, "--mode=data", "--output=./good.jsonl"],
        "--output=good.jsonl: is a source of the data",
        "wanted another file",
    ),
    "kept problems into a directory": (
        [TINY, *GOOD, "--mode=data", "--output=no_files"],
        "--output=no_files: is a directory",
        "wanted a jsonl file",
    ),
    "kept problems over a run's config": (
        [TINY, *GOOD, "--mode=data", "--output=other_run/config.json"],
        "--output=other_run/config.json: is written as json lines",
        "ends in .jsonl",
    ),
    "kept problems into nowhere": (
        [TINY, *GOOD, "--mode=data", "--output=nowhere/kept.jsonl"],
        "is in a directory that does not exist",
        "wanted a jsonl file",
    ),
    "kept problems of a generator": (
        [TINY, "--mode=data", "--output=kept.jsonl"],
        "--output=kept.jsonl",
        "no list of problems",
    ),
    "misspelt generator": (
        [TINY, "--config.data.train=arithmetics"],
        "arithmetics",
        "'arithmetic'",
    ),
    "hub data without split": ([TINY, "--config.data.train=hf:a/b"], "hf:a/b", "split"),
    "unknown tfds data": ([TINY, "--config.data.train=tfds:nothing:train"], "nothing", "tfds"),
    "weight that is none": (
        [TINY, "--config.data.train=good.jsonl=0.7,good.jsonl=x"],
        "good.jsonl=x",
        "weight",
    ),
    "prompt over budget": ([TINY, "--config.data.train=long.jsonl"], "long.jsonl", "max_prompt"),
    "letters it has no tokens for": ([TINY, "--config.data.train=foreign.jsonl"], "ß", "tokenizer"),
    "no tests for a code verifier": (
        [TINY, *GOOD, "--config.verifier=code"],
        "good.jsonl:1 has no tests",
        "'math'",
    ),
    "tests of no kind": (
        [TINY, "--config.data.train=no_tests.jsonl", "--config.verifier=code"],
        "no_tests.jsonl:1: problem 'no_tests:1': tests.type: got 'stdio'",
        "check_fn, assert, stdin, call",
    ),
    "generator for another tokenizer": (
        [TINY, "--mode=preflight", "--config.data.train=lists"],
        "config.data.train: lists:",
        "tokenizer 'char' cannot write",
    ),
    "given attempts at a file": (
        [TINY, *GOOD, "--mode=preflight", "--config.eval.given_attempts=1"]
        + ["--config.data.eval_problems=8", "--config.rollout.problems_per_step=8"],
        "config.eval.given_attempts: got 1, wanted 0",
        "only arithmetic",
    ),
    # Shapes and devices (eight of them here).
    "mesh of other devices": ([TINY, "--config.mesh.data=3"], "config.mesh", "8 devices"),
    "rows not divisible": ([TINY, "--config.batch.microbatch_rows=3"], "got 3", "multiple of 8"),
    "rows too short": ([TINY, "--config.batch.row_tokens=64"], "row_tokens: got 64", "at least"),
    "heads not divisible": (
        [TINY, "--config.mesh.fsdp=1", "--config.mesh.tensor=8"],
        "tensor",
        "2",
    ),
    "tokens not divisible": (
        [TINY, "--config.mesh.fsdp=2", "--config.mesh.context=4", "--config.batch.row_tokens=100"],
        "batch.row_tokens: got 100",
        "multiple of 8",
    ),
    "two axes take the rest": ([TINY, "--config.mesh.context=-1"], "config.mesh", "at most one"),
    "sampling mesh": ([TINY, "--config.sampling.tensor=3"], "sampling.tensor: got 3", "divisor"),
    "unknown topology": (
        [TINY, "--mode=preflight", "--topology=v9:1x1"],
        "v9:1x1",
        "TPUs: v4, v5e",
    ),
    "no such slice": (
        [TINY, "--mode=explain", "--topology=v5e:5x5"],
        "--topology=v5e:5x5: there is no such slice",
        "or 16",
    ),
    "coordinator without port": ([TINY, "--coordinator=here"], "'here'", "address:port"),
    "ids without coordinator": ([TINY, "--num_processes=2"], "got 2 and None", "--coordinator="),
    "no memory": (
        [TINY, "--mode=preflight", "--device_memory=-1"],
        "--device_memory: got -1",
        "above 0",
    ),
    "coordinator without ids": ([TINY, "--coordinator=here:1"], "--process_id", "ids from 0"),
    # Verifiers.
    "verifier module": ([TINY, "--config.verifier=no.such:thing"], "no.such", "module"),
    "verifier function": ([TINY, "--config.verifier=json:nothing"], "nothing", "json"),
    "verifier file": ([TINY, "--config.verifier=nowhere.py:verify"], "nowhere.py", "No such file"),
    "verifier syntax": (
        [TINY, "--config.verifier=verifier_syntax.py:verify"],
        "verifier_syntax.py",
        "SyntaxError",
    ),
    "verifier arguments": (
        [TINY, "--config.verifier=verifier_arguments.py:verify"],
        "verify",
        "(problem, text)",
    ),
    "nothing to grade": ([TINY, "--mode=verify"], "--input is missing", "jsonl"),
    "no file to grade": ([TINY, "--mode=verify", "--input=nowhere.jsonl"], "nowhere.jsonl", ""),
    "directory to grade": (
        [TINY, "--mode=verify", "--input=no_files"],
        "--input=no_files",
        "wanted a jsonl file",
    ),
    "file to grade without answers": (
        [TINY, "--mode=verify", "--input=good.jsonl"],
        ":1",
        "response",
    ),
    # Records.
    "wandb that is not installed": (
        [TINY, "--config.log.wandb=mine", "--workdir=new_run"],
        "config.log.wandb: got 'mine'",
        "cipo_jax[wandb]",
    ),
    # Runs and directories.
    "run of another config": ([TINY, "--workdir=other_run"], "seed: 7 there, 0", "--workdir"),
    "not a run's config": ([TINY, "--workdir=bad_run"], "bad_run", "choose another"),
    "a config of another form": (
        [TINY, "--workdir=flat_run"],
        "flat_run/config.json: is not a run's config",
        '{"value": ...',
    ),
    "metrics with a gap": (
        [TINY, "--workdir=damaged_run"],
        "damaged_run/metrics.jsonl:2: train step 5",
        "Put them back from a copy",
    ),
    "attempts that cannot be read": (
        [TINY, "--workdir=damaged_archive"],
        "attempts/train-000001.jsonl.gz",
        "remove the file",
    ),
    "workdir is a bucket": (
        [TINY, "--workdir=gs://bucket/run"],
        "gs://bucket/run",
        "config.checkpoint.directory",
    ),
    "checkpoints on the web": (
        [TINY, "--config.checkpoint.directory=s3://bucket/run"],
        "config.checkpoint.directory: got 's3://bucket/run'",
        "gs://bucket/path",
    ),
    "no such metric": (
        [TINY, "--config.checkpoint.best_metric=eval/pass1"],
        "config.checkpoint.best_metric: got 'eval/pass1'",
        "did you mean 'eval/pass@{k}'?",
    ),
    "workdir is a file": ([TINY, "--workdir=a_file"], "a_file", "--workdir"),
    "checkpoints into a file": (
        [TINY, "--config.checkpoint.directory=a_file"],
        "a_file",
        "checkpoint.directory",
    ),
    "compiled programs into a file": (
        [TINY, "--config.log.compilation_cache=a_file"],
        "config.log.compilation_cache: got 'a_file', a file",
        "wanted a directory",
    ),
    "init from nothing": ([TINY, "--config.init_from=nowhere"], "init_from", "run directory"),
    "preflight from nothing": (
        [TINY, "--mode=preflight", "--config.init_from=nowhere"],
        "config.init_from: nowhere is not a run directory",
        "such as runs/demo",
    ),
    "init from another model": (
        [TINY, "--config.init_from=other_model"],
        "model.num_layers",
        "other_model",
    ),
    "evaluate a run with a damaged config": (
        ["--mode=evaluate", "--workdir=bad_value_run"],
        "bad_value_run/config.json: config.seed: got 'one'",
        "wanted int",
    ),
    "evaluate nothing": (["--mode=evaluate", "--workdir=nowhere"], "nowhere", "a run directory"),
    "evaluate without checkpoint": (
        ["--mode=evaluate", "--workdir=other_run"],
        "other_run",
        "checkpoint",
    ),
    "unknown benchmark": (
        [TINY, "--mode=evaluate", "--config.eval.suites=('math5000',)"],
        "math5000",
        "did you mean 'math500'?",
    ),
    # Said before the hub is asked for either.
    "benchmark in words for a model of characters": (
        [TINY, "--mode=evaluate", "--config.model.source=a/b", "--config.eval.suites=('math500',)"],
        "math500: its prompts cannot be written with data.tokenizer='char'",
        "--config.data.tokenizer=",
    ),
    "compare nothing": (["--mode=compare"], "--mode=compare", "run"),
    "compare a run with itself": (
        ["--mode=compare", "other_run", "./other_run"],
        "other_run is given twice",
        "wanted different runs",
    ),
    "compare by a config": (
        ["--mode=compare", "other_run", "other_model", TINY],
        "--config=tiny.py: --mode=compare takes run directories",
        "leave it out",
    ),
    "compare by a key": (
        ["--mode=compare", "other_run", "other_model", "--config.seed=1"],
        "--config.seed=1: --mode=compare takes run directories",
        "leave it out",
    ),
    "fetch over a run": (
        [TINY, "--mode=fetch", "--config.model.source=a/b", "--output=other_run"],
        "--output: other_run is the directory of a run",
        "a new directory",
    ),
    "compare what is no run": (["--mode=compare", "a_file", "b"], "a_file", "run"),
    "generate of nothing": (
        [TINY, "--mode=generate", "--prompt= "],
        "--prompt: got an empty text",
        "wanted a question",
    ),
    "generate without prompt": ([TINY, "--mode=generate"], "--prompt", ""),
    "export without checkpoint": ([TINY, "--mode=export", "--workdir=nowhere"], "nowhere", ""),
    "export of a word": ([TINY, "--mode=export", "--step=first"], "--step", "number"),
    "regrade nothing": ([TINY, "--mode=regrade", "--workdir=nowhere"], "nowhere", ""),
    "regrade without workdir": ([TINY, "--mode=regrade"], "--workdir is missing", "regrade"),
    "study without its mode": (
        [f"--config={STUDY}"],
        "quick.py: is a study of several runs",
        "wanted --mode=study",
    ),
    "study of nothing": (["--mode=study"], "--config is missing", "=configs/studies/quick.py"),
    "study of one run": (
        ["--mode=study", f"--config={STUDY}:arithmetic/cipo"],
        "leave out ':arithmetic/cipo'",
        "--only=",
    ),
    "study of a plain config": ([TINY, "--mode=study"], "defines no STUDY", "configs/studies/"),
}


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`FILES` and two runs, in the working directory."""
    monkeypatch.chdir(tmp_path)
    # ml_collections loads config files over one another: a function of the last would be found.
    monkeypatch.delitem(sys.modules, "config_config", raising=False)
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    for name, changes in (
        ("other_run", {"seed": 7}),
        ("other_model", {"model": {"num_layers": 2}}),
    ):
        other = resolve(changes)
        (tmp_path / name).mkdir()
        write_json(tmp_path / name / "config.json", provenance(other, other, set()))
    return tmp_path


def message_of(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as ended:
        main(["cipo_jax", *arguments])
    assert ended.value.code == 2
    return capsys.readouterr().err


IMPORT_MUCH = ("tokenizer without files", "unknown tfds data")  # transformers, TFDS


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=pytest.mark.slow if n in IMPORT_MUCH else ()) for n in MISTAKES]
)
def test_mistakes_are_explained(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)  # as if it were not installed
    arguments, wrong, right = MISTAKES[name]
    message = message_of(arguments, capsys)
    assert message.startswith("error: ") and message.count("error: ") == 1
    assert wrong in message and right in message, message
    assert "Traceback" not in message and "\n\n" not in message and len(message) < 1200, message


def test_a_run_directory_in_use_is_left_alone(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with DirectoryLock(files / "other_run"):
        message = message_of([TINY, "--workdir=other_run"], capsys)
        assert f"--workdir=other_run: is in use by process {os.getpid()} on host" in message
        # Modes that write nothing there are not kept out.
        assert "checkpoint" in message_of(["--mode=evaluate", "--workdir=other_run"], capsys)
    assert "seed: 7 there" in message_of([TINY, "--workdir=other_run"], capsys)


def test_there_are_many_of_them() -> None:
    commands = [tuple(arguments) for arguments, _, _ in MISTAKES.values()]
    assert len(set(commands)) == len(commands) >= 60


def test_an_optional_package_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # as if it were not installed
    message = message_of([TINY, "--config.data.train=hf:owner/name:train"], capsys)
    assert "owner/name" in message and "pip install" in message


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs Linux's full device")
@pytest.mark.parametrize(("both", "unbuffered"), [(False, ""), (True, ""), (False, "1")])
def test_output_that_cannot_be_written_is_said(both: bool, unbuffered: str) -> None:
    command = [sys.executable, "-m", "cipo_jax.main", "--help"]
    with open("/dev/full", "w") as full:
        result = subprocess.run(
            command,
            stdout=full,
            stderr=full if both else subprocess.PIPE,
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            text=True,
        )
    assert result.returncode == 2
    wanted = "error: the output: cannot be written (No space left on device)"
    assert both or (result.stderr.startswith(wanted) and result.stderr.count("\n") == 1)


def test_a_full_disk_is_said_wherever_it_is_met(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fill(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("cipo_jax.train.train", fill)
    message = message_of([TINY, "--workdir=somewhere"], capsys)
    assert message.startswith("error: somewhere, or the output: cannot be written (No space left")
    assert "Traceback" not in message


@pytest.mark.parametrize(
    "words",
    [
        "RESOURCE_EXHAUSTED: Out of memory allocating 96000000000000 bytes.",
        "INTERNAL: Error dispatching computation: Out of memory allocating 12000000000000 bytes.",
    ],
)
def test_running_out_of_memory_is_told_from_a_bug(
    words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In the words that XLA was seen to use."""

    def allocate(*_: object) -> None:
        raise jax.errors.JaxRuntimeError(words)

    monkeypatch.setattr("cipo_jax.train.train", allocate)
    message = message_of([TINY], capsys)
    assert "out of device memory" in message and "bytes). --mode=preflight" in message


@pytest.mark.slow
def test_a_device_that_is_too_small(capsys: pytest.CaptureFixture[str]) -> None:
    """A key/value cache of some hundred TiB, on the CPU."""
    cache = ("page_size=100000000", "cache_tokens=1000000000000")
    arguments = [TINY, "--workdir=large", *(f"--config.sampling.{key}" for key in cache)]
    message = message_of(arguments, capsys)
    assert "out of device memory" in message and "config.sampling.cache_tokens" in message
    assert "--mode=preflight" in message and "Traceback" not in message


def test_other_failures_keep_their_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr("cipo_jax.train.train", fail)
    with pytest.raises(RuntimeError, match="a bug"):
        main(["cipo_jax", TINY])


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("cipo_jax.train.train", interrupt)
    with pytest.raises(SystemExit) as ended:
        main(["cipo_jax", TINY])
    assert ended.value.code == 130
    assert "the same command continues" in capsys.readouterr().err


def test_the_traceback_is_shown_when_asked_for() -> None:
    with pytest.raises(CipoError, match="group_size"):
        main(["cipo_jax", TINY, "--config.rollout.group_size=1", "--traceback"])


def test_a_line_of_a_config_file_is_named(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (files / "tiny.py").read_text().replace("c.batch.microbatch_rows", "c.batch.rows")
    (files / "tiny.py").write_text(text)
    message = message_of([TINY], capsys)
    assert message.startswith("error: --config=tiny.py: line 4: ")
    assert "rows" in message and "Traceback" not in message


def test_help_is_the_commands_documentation(capsys: pytest.CaptureFixture[str]) -> None:
    main(["cipo_jax", "--help"])
    printed = capsys.readouterr().out
    for word in ("train", "--workdir", "--traceback", "explain", "--config="):
        assert word in printed


def test_the_real_command_says_it_once_and_without_jax() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "cipo_jax.main", TINY, "--config.sede=1"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 2
    errors = [n for n in result.stderr.splitlines() if not n.startswith("import time:")]
    assert errors == ["error: config.sede: unknown key; did you mean config.seed?"]
    imported = {n.rpartition("|")[2].strip() for n in result.stderr.splitlines()}
    assert (
        "cipo_jax.config.keys" in imported and not {"jax", "tensorflow", "transformers"} & imported
    )
