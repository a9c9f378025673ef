"""Data: problems and demonstrations, tokenizers, and prompts.

This room decides what the problems of a source are, in which order they come, and which tokens the
policy is shown. It does not decide what a run does with its data (`run/problems.py`) or which
answers are right (`verifiers/`). It imports `types`, `config` and the verifiers' `math/boxes.py`,
and no accelerator runtime.

    sources.py        how a source is written in the config, and which reader it gets
    rows.py, tfds_rows.py          rows of files and Hugging Face data sets; of TFDS data sets
    references.py     reference answers, in all the forms in which data sets give them
    datasets.py       rows -> problems and demonstrations; their order is a function of (seed, step)
    mixture.py        several sources as one, with weights
    decontaminate.py  questions that occur twice, or in evaluation data too
    tokenizer.py, plain_tokenizers.py, train_tokenizer.py   text -> tokens and back
    gguf_tokenizer.py   the tokenizer of a GGUF file -> files of transformers
    control_tokens.py   the names of control tokens in texts
    chat_template.py, stop_tokens.py   the turns of a chat; what ends a completion
    prompts.py        problems and attempts -> prompts
    tasks/            the embedded tasks, generated without limit
    benchmarks/       the benchmark suites of --mode=evaluate

To add a kind of source ("kind:..."): a function source -> Iterator[Row] in a new file, as
`tfds_rows.py`; a branch in `sources.read_rows`, and a line in the docstring of `sources.py`.
A column name that data sets use for question, answer, tests or id: `rows.ALIASES`.

To add a tokenizer: a class with the methods of `tokenizer.Tokenizer`, and a branch in
`load_tokenizer`. Its `encode` must never give a control token. tests/data/test_tokenizer.py has
the tests that every tokenizer passes. Then name it in the comment of `data.tokenizer` in
`config/keys.py`.
"""
