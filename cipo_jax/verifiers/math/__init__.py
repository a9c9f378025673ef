"""The "math" verifier: is the final answer of a completion the reference answer?

    answer.py     finds the answer in a completion and gives the verdict: `verify_math`
    equality.py   when two answers are equal: numbers, lists, words, expressions
    quantity.py   one spelling for what only looks different; numbers with units
    boxes.py      finds `\\boxed{}` in a text
    gold.py       a verifier that says whether a reference answer can be read at all

It compares texts and mathematics only. Time and memory are limited by the worker that it runs in.

To add a rule by which an answer is found: a function text -> answer or None in `answer.py`, entered
in `RULES` and described in that file's docstring; its name goes into `EXTRACTION_RULES` in
`config/keys.py`. To add a unit or a spelling: the tables of `quantity.py`.
"""
