"""Where programs that a model wrote are run.

    layers.py    which isolation this machine offers, what it covers, and a trial of it
    launch.py    starts and stops sandboxes: what a program sees, who forks it
    seccomp.py   the system calls that a program may not make
    inside.py    in the sandbox: gives up rights, then runs a role
    script.py    in the sandbox: what a program finds when it starts, and how it ends
    roles.py     in the sandbox: the three roles, namely a program's functions, a program run on
                 inputs, and tests that call a program in another sandbox
    peer.py      in the sandbox: calls between two sandboxes
    values.py    in the sandbox and outside: values as data
    wire.py      in the sandbox and outside: how messages are framed

The files marked "in the sandbox" travel there as compiled code (`launch.py`, `_MODULES`): they use
the standard library only, and import only those before them in that list. `code/tests.py` uses this
room; what is right or wrong is decided there.

To add a layer: its name in `launch.py` and in `LAYERS` of `layers.py`, best first, and what it
covers in the docstring of `layers.py`. The tests in tests/verifiers/sandbox run the attacks in each
layer of `LAYERS`. To add a role: a function in `roles.py` that calls `confine` before anything that
is not trusted, entered in `ROLES`.
"""
