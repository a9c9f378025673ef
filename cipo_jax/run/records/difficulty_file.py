"""difficulty.jsonl: what a run has learned of each problem's difficulty, for people and scripts.

The run itself never reads it: it keeps the same numbers in its checkpoints. How they come about is
decided in `rl/difficulty`.
"""

import json
from pathlib import Path

from cipo_jax.rl.difficulty import Memory
from cipo_jax.run.records.files import write_text


def write_difficulty(path: Path, memory: Memory) -> None:
    """Writes one json line per problem, the hardest first: id, pass_rate, count."""
    rows = sorted(memory.items(), key=lambda item: (item[1].pass_rate, item[0]))
    text = "".join(
        json.dumps({"id": problem, "pass_rate": d.pass_rate, "count": d.count}) + "\n"
        for problem, d in rows
    )
    write_text(path, text)
