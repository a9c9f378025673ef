"""What a run writes: files in its directory, and lines on screen.

    directory.py         config.json and data.json: which config and data a directory belongs to
    lock.py              one run at a time in a directory
    identity.py          run.json: whose checkpoints are in a directory, and are any missing
    checkpoint.py        parameters, optimiser state and host state, and how they are restored
    manager.py           orbax's checkpoint manager, as it is used here
    manifest.py          manifest.json in a checkpoint: is it what was written?
    origin.py            the config and the versions that a checkpoint comes from
    scores.py            which checkpoints are kept
    metrics_file.py      metrics.jsonl and TensorBoard's event files
    wandb_run.py         the same numbers at Weights & Biases
    starts.py            starts.jsonl: when, by which command and on what the run was started
    archive.py           every attempt, attempts/*.jsonl.gz
    difficulty_file.py   difficulty.jsonl: what is known of each problem
    record.py            all that is written in a step, by the first host alone
    terminal.py          header, a line a step, samples, summary
    printed_errors.py    what libraries print of errors that are raised as well
    files.py             writing a file whole, and what a full disk means

Decided here: formats, and which runs may continue a directory. What the numbers mean is decided in
`run/measures.py`; the page of a run is drawn in `report/`. To add a file: write it through
`files.replacing` or `write_text`, from `Record`: one host writes, and a kill leaves no half file.
"""
