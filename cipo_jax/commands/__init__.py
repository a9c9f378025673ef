"""What the program does besides training: one file a mode, named as the mode.

Each has `command(invocation)`, which reads the flags, and a function that does the work and can be
called from Python. Modes do not import one another; what two of them need is in `run/`, `report/`
or below. `gold.py` is not a mode: `evaluate` and `data` use it to check reference answers.

To add a mode: a file here with `command`, a `Mode` in the table of `main.py` (its flags, whether it
needs devices, whether it can take a run's config), its flags in `config/command_line.py` if they
are new, a line on a page of docs/, and tests/commands/test_<mode>.py.
"""
