"""The key/value cache of sampling, in pages.

A page holds the keys and values of `page_size` consecutive positions of one sequence, in all
layers. A row names its pages in a table, so that rows of different lengths waste at most a page
each, and rows with a common prefix can share its pages.

    pages       how pages lie in memory: made, copied, written, read
    attention   what a call computes of them: prefill of T tokens a row, decode of one token a row
    gpu_kernel  prefill and decode on CUDA GPUs
    columns     decode on GPUs that no kernel serves

Not decided here: which page belongs to whom (`sampling/pages`), and what the rows of a call are
(`sampling/plan`).

There are two layouts, one for kernels and one for everything else; `pages.empty_pages`
chooses. To add one, or a kernel that needs one: in `pages`, its shapes in `empty_pages`, its axes
in `_AXES` and `_TOKEN_DIMENSION`; in `attention`, its case in `_attend_shard`; in
tests/policy/cache/, an entry in `LAYOUTS` of test_pages.py and a comparison with the reference
beside those of test_kernel.py.
"""
