"""The policy model: pure functions of parameters and arrays.

Decided here: the architecture and what it computes, where arrays lie on the devices, which
attention runs where, and how Hugging Face checkpoints are read and written. Not decided here: how
tokens are chosen (`sampling/`), what is optimised (`rl/`), when parameters are saved (`run/`). This
room imports `types` and nothing else of the package; flax.linen is imported nowhere but here.

The path of the parameters:

    made      `model.init_params` (random) or `huggingface/load.load_params` (a checkpoint), on
              their shards, which `model.param_shardings` takes from `sharding.logical_rules`
    trained   `rl/train_step` scores tokens by `model.token_logprobs` and updates the parameters
    sampled   `model.cast_weights` gives the compute dtype, `layer_weights` the layers one by one,
              except for TPUs, `host_copy` a copy on each host where several sample; then
              `model.hidden_states` with a cache, and `model.unembed`
    kept      checkpoints of the run (`run/records/`), `huggingface/export.export_hf`

Which attention runs where, by the devices of the ambient mesh (`attention_kernels.platform`):

    training   `attention_kernels.attend_rows`: `splash_attention` on TPU, cuDNN on GPU or
               `triton_attention` for what cuDNN does not serve, else `attention.attend`, the
               reference; `context` says what is different where rows are split by tokens
    sampling   `cache/attention.attend_paged`: on TPU the ragged paged attention kernel, on CUDA
               GPUs `cache/gpu_kernel`; elsewhere the reference for prefill and, for decoding, a
               loop over the live pages on CPU, `cache/columns` on other GPUs

To add a kernel for training: in `attention_kernels`, write `x_attention`, which takes what
`splash_attention` takes, and `x_refuses`, which says why it cannot; choose it in `_kernel`; compare
it with the reference in tests/policy/test_attention_kernels.py. One for sampling: see `cache/`.

To add a model family:

    1. `config.ModelConfig`: a field for each feature that no field describes yet. Its default must
       mean that the feature is off.
    2. `model`, `layers`, `rope`: compute it. A new weight is made by `Layer._weight`, its axes
       named as in `sharding.logical_rules`. One that is multiplied with, by `Layer._product`; it is
       also named in `layer_weights.PRODUCTS` and `rl/optimizer.LAYER_MATRICES`.
    3. `huggingface/`: names and config.json, as its docstring says.
    4. Tests against transformers: an entry in `TRANSFORMERS` of tests/tiny_models.py and in `CASES`
       of tests/policy/huggingface/test_parity.py and tests/sampling/test_hf_greedy.py.
"""
