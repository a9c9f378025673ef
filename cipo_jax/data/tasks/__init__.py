"""The embedded tasks: problems, solutions and wrong solutions, generated without limit.

    generated.py        `Task`: what a task is. Splits, streams of problems and demonstrations
    embedded.py         the tasks by their names in the config
    arithmetic.py       chains of integer arithmetic
    digit_lists.py      digits moved and changed
    small_programs.py   small functions, judged by running them
    guess_and_check.py  equations that are easy to evaluate and hard to invert
    graph_colouring.py  graphs to colour; wrong solutions show their conflicts
    word_problems.py    short stories in natural language, for pretrained models
    equations.py        whether equations in a text are true
    story_parts.py, stories_of_things.py, stories_of_activities.py   their sentences
    arithmetic_tfds.py  the arithmetic problems as a TFDS data set, for `tfds:` sources

To add one:

  1. write `tasks/<name>.py` with `make_problem`, `solution`, `corrupt` and
     `TASK = Task(...)`, see `generated.Task`. If its texts have characters that the tokenizer
     "char" lacks, give the task a `tokenizer` name with `characters` or `phrases`. If parts of a
     solution should be learned by themselves, give it `practise`; if its lines can be checked,
     `true_lines`;
  2. enter it in `embedded.GENERATED`.

`data.train`, `data.eval` and `cold_start.demonstrations` then take the name. tests/data/tasks has a
test file for each task; the comments of these keys and of `data.tokenizer` in `config/keys.py` name
the tasks.

To add a story to the word problems: a `Story` beside the others, entered in
`word_problems.STORIES`; test_word_problems.py reads its sentences. This changes what a seed draws.
"""
