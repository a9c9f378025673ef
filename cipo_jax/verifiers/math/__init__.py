"""The "math" verifier: is the final answer of a completion the reference answer?

    answer.py         finds the answer in a completion and gives the verdict: `verify_math`
    boxes.py          finds boxes
    equality.py       when two answers are equal: the order of all that follows
    spelling.py       one spelling for what only looks different
    quantity.py       literal numbers, with units
    lists.py          brackets and items
    moments.py        times of day and dates
    solution_sets.py  intervals, inequalities and unions of them
    limits.py         what is not parsed
    equations.py      what an equation says the answer is
    evaluated.py      is an answer worked out, or copied from the question?
    expressions.py    what math-verify and SymPy read
    exact.py          exact comparison of what they read
    gold.py           a verifier that says whether a reference answer can be read at all

It compares texts and mathematics only. Time and memory are limited by the worker that it runs in.

To add a rule by which an answer is found: a function text -> answer or None in `answer.py`, entered
in `RULES` and described in that file's docstring; its name goes into `EXTRACTION_RULES` in
`config/keys.py`. To add a unit: the tables of `quantity.py`. To add a spelling: those of
`spelling.py`.
"""
