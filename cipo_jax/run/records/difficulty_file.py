"""difficulty.jsonl: what a run knows of each problem's difficulty, for people and scripts.

The run itself never reads it: its checkpoints have the same numbers, computed in `rl/difficulty`.
"""

import json
from pathlib import Path

from cipo_jax.rl.difficulty import Memory
from cipo_jax.run.records.files import write_text


def write_difficulty(path: Path, memory: Memory) -> None:
    """Writes one json line per problem, the hardest first: id, pass_rate, count."""
    rows = sorted(memory.items(), key=lambda item: (item[1].pass_rate, item[0]))
    lines = ({"id": problem, "pass_rate": d.pass_rate, "count": d.count} for problem, d in rows)
    write_text(path, "".join(json.dumps(line) + "\n" for line in lines))
