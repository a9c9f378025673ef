"""The "code" verifier: does the program in a completion pass the problem's tests?

    tests.py          gives the verdict (`verify_code`), says what test specifications look like
    specification.py  which test specifications can be run
    blocks.py         which code blocks of a completion are its program
    program.py        how a completion is read as a program, and what runs before and after it
    clock.py          how much of its time a program has used
    compare.py        when an output or a value is the expected one

Programs run in `verifiers/sandbox/` only. Here, in the worker, are the tests, the expected values
and the comparison.

To add a way to compare outputs: a function (input, expected, output) -> bool in `compare.py`,
entered in `find_judge`; a function of your own needs no entry, `package.module:function` names it.
To add a form of tests: a type in `_FIELDS` of `specification.py`, with a method of `_Run` in
`tests.py` that yields a result for each test.
"""
