"""The embedded arithmetic problems as a TFDS data set, read as `tfds:cipo_arithmetic:train`.

    python -c "from cipo_jax.data.tasks.arithmetic_tfds import prepare; prepare('directory')"

prepares it in a directory of choice, to be read as `tfds:directory/cipo_arithmetic/1.0.0:train`.
Neither preparing nor reading needs TensorFlow: examples are stored as array_record. The file is
also an example for a data set of your own. What the problems are is decided in `arithmetic.py`.
"""

from collections.abc import Iterator
from pathlib import Path

import tensorflow_datasets as tfds

from cipo_jax.data.tasks import arithmetic
from cipo_jax.data.tasks.generated import GeneratedProblems

NAME = "cipo_arithmetic"
SIZES = {"train": 4096, "dev": 256, "test": 512}


class CipoArithmetic(tfds.core.GeneratorBasedBuilder):
    """Integer expressions with two to five operations and their values."""

    name = NAME
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012

    def _info(self) -> tfds.core.DatasetInfo:
        texts = {name: tfds.features.Text() for name in ("id", "question", "answer")}
        return tfds.core.DatasetInfo(
            builder=self,
            description="Integer expressions and their values, from cipo_jax.",
            features=tfds.features.FeaturesDict(texts),
            supervised_keys=("question", "answer"),
        )

    def _split_generators(
        self, dl_manager: tfds.download.DownloadManager
    ) -> dict[str, Iterator[tuple[str, dict[str, str]]]]:
        del dl_manager  # nothing is downloaded
        return {split: self._generate_examples(split) for split in SIZES}

    def _generate_examples(self, split: str) -> Iterator[tuple[str, dict[str, str]]]:
        for problem in GeneratedProblems(arithmetic.TASK, 0, split).first(SIZES[split]):
            assert problem.answer is not None
            columns = {"id": problem.id, "question": problem.question, "answer": problem.answer}
            yield problem.id, columns


def prepare(data_dir: str | Path) -> Path:
    """Writes the data set under `data_dir`, unless it is there, and returns its directory."""
    builder = CipoArithmetic(data_dir=str(data_dir), file_format="array_record")
    builder.download_and_prepare()
    return Path(builder.data_dir)
