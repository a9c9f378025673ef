"""configs/code.py with the embedded model on programs of our own generation, in the sandbox."""

from pathlib import Path

import pytest
from places import ROOT

from cipo_jax.main import run
from cipo_jax.run.records.metrics_file import read_metrics

CONFIG = ROOT / "configs" / "code.py"


@pytest.mark.slow
def test_the_code_config_trains_on_small_programs(tmp_path: Path) -> None:
    overrides = {
        "model.source": "",
        "model.compute_dtype": "float32",
        "model.num_layers": 2,
        "data.train": "programs",
        "data.eval": "programs",
        "data.eval_problems": 4,
        "data.tokenizer": "char_code",
        "data.chat_template": False,
        "data.prompt_template": "{question}\n",
        "data.correction_template": "{question}\n{attempt}\nCheck and correct it.\n",
        "data.min_operations": 1,
        "data.max_operations": 2,
        "data.max_prompt_tokens": 24,
        "data.max_attempt_tokens": 44,
        "data.max_completion_tokens": 44,
        "cold_start.max_steps": 60,
        "cold_start.demonstrations": "programs",
        "cold_start.check_every": 60,
        "cold_start.check_problems": 16,
        "sampling.slots": 32,
        "rollout.problems_per_step": 4,
        "correction.replay_fraction": 1.0,
        "optimizer.learning_rate": 4e-4,
        "batch.row_tokens": 256,
        "batch.microbatch_rows": 8,
        "verifier.workers": 2,
        "eval.every": 0,
        "num_steps": 2,
        "log.tensorboard": False,
    }
    run(
        [
            "cipo_jax",
            f"--config={CONFIG}",
            f"--workdir={tmp_path / 'run'}",
            *(f"--config.{key}={value}" for key, value in overrides.items()),
        ]
    )
    steps = [r for r in read_metrics(tmp_path / "run") if r["phase"] == "train"]
    assert len(steps) == 2
    for record in steps:
        # Programs were judged by running them: none ended for a reason of the verifier's own.
        assert record["base/outcome/error"] == 0
        assert record["anchor/count"] > 0
    assert sum(r["base/outcome/correct"] for r in steps) > 0
