"""`--mode=study`: methods on tasks over seeds, run, measured and reported.

    plan.py       what a study is (`Study`, `Method`), its runs, and the arguments of each
    queue.py      which run is next when several run at a time, and on which cores
    run.py        does the runs, each in processes of its own, and continues after a stop
    measures.py   a run's record, from its directory; measures as functions of records
    report.py     results.json and the tables
    page.py       study.html, the page with figures and tables
    figures.py    learning curves, pass@k, differences

Decided here: how runs are paired and matched in compute, what is measured on them, how it is shown.
Not decided here: how a run trains and evaluates (an ordinary `--mode=train` and `--mode=evaluate`),
the formulas of uncertainty (`run/statistics.py`), and how curves are read and drawn
(`run/comparison.py` and `report/comparison.py`, which `--mode=compare` uses as well). The modules
may import `config`, `data`, `run`, `report` and `types`, but no other mode.

To add one more:

- study: a file in `configs/studies/` that defines `STUDY` and `get_config(run)`; copy `quick.py`.
- task: a function that changes the base config, as an entry of `STUDY.tasks`. A data set that is
  generated is added in `data/tasks/`.
- method: an entry of `STUDY.methods`: `Method(change)`, with a function that changes the base
  config. `matched="steps"` or `"samples"` gives it as many sampled tokens as the reference. Changes
  that several studies share are in `configs/variants.py`.
- measure: in `measures.py`, its sums per problem go into `_SUMS` and `_problem_sums`; raise
  `_FORMAT`, so that kept records are made again. A function of records returns the ratio of sums.
  Records without their runs, such as those in docs/evidence/, lack new sums: leave the measure out
  for them, as `repeats` does. A measure in `measures` is shown in the tables of values and
  differences; `_DIFFERENCES` of `figures.py` names those that are drawn. Say in docs/study.md what
  it is.
- table or figure: a function of records in `report.py`, called by `study_sections`, or in
  `figures.py`, called by `draw_study`, or in `page.py`.
"""
