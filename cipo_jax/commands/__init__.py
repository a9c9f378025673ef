"""What the program does besides training: one file a mode, named as the mode.

Each has `command(invocation)`, which takes the flags apart, and a function that does the work and
can be called from Python. Modes do not import one another; what two of them need lies in `run/`,
`report/` or below. `gold.py` is no mode: `evaluate` and `data` ask it about reference answers.

To add a mode: a file here with `command`, a `Mode` in the table of `main.py` (its flags, whether it
needs devices, whether a run's own config will do), its flags in `config/command_line.py` if they
are new, a line on a page of docs/, and tests/commands/test_<mode>.py.
"""
