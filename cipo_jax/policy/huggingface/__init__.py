"""Checkpoints in Hugging Face format: read, written, and found.

    hub          a directory or hub id -> the directory of a model
    config       config.json <-> `ModelConfig`
    rope         the rotary part of config.json
    weights      which stored tensor holds which parameter, and in which layout
    load         safetensors -> parameters on their shards
    export       parameters -> safetensors and config.json
    gguf         a GGUF file -> safetensors and config.json
    json_files   json objects and numbers in them, with errors that name the place

transformers is not needed: nothing here imports it. Not decided here: what the model computes (the
rest of `policy/`), tokenizers (`data/tokenizer`).

To support another architecture whose features `ModelConfig` has (else see `policy/` first):

    1. `config.ARCHITECTURES`: its name in config.json, with what that name implies. A feature that
       `Architecture` has no field for gets one, read in `_parse` and written in `_values`; keys
       that ask for what the model does not compute are refused in `_refuse_unsupported`.
    2. `rope`: another rope type in `ROPE_TYPES`, `_rope_parameters` and `scaling_values`.
    3. `weights._TENSORS`: stored names and layouts that differ.
    4. The tests named in `policy/`.
"""
