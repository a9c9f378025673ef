"""The benchmark suites of `--mode=evaluate`.

    suites.py          a record for each suite: source, templates, samples, metric; loading
    rows.py            a benchmark's row -> problem, reference solution, given attempt
    livecodebench.py   the same for LiveCodeBench's rows, whose tests are partly encoded

How a suite is sampled and scored is decided in `commands/evaluate.py` and `run/evaluate.py`.

To add one:

  1. a `Suite` in `_ALL` of `suites.py`, with a function row -> Item: one of `rows.py`, or a new one
     there;
  2. four rows in its format in tests/fixtures/suites/<file>.jsonl: the tests of all suites then
     apply to it;
  3. a line in the table of docs/evaluation.md.
"""
