"""Verifiers: they judge completions, on the host, in separate processes.

This room decides whether a completion is right, and that judging it can neither hang, crash nor
harm the run. It does not decide what a verdict earns (`rl/rewards.py`, `reward_of`), nor when
completions are judged (`run/rollout.py`). It imports `types` and `config`, and no accelerator
runtime: worker processes import it.

How judging works, for one completion:

    judge.py           `open_pool` starts a `VerifierPool` by the config's `verifier` section
    pool.py            `pool.submit(problem, text)` queues the completion and returns a future
      worker_process.py  the pool's side of one worker: sends the completion as a pickle, waits for
                         the answer until the deadline, kills the worker past it (TIMEOUT)
      messages.py        what both sides send over their socket, with deadlines
    zygote_process.py  the pool's side of the process that workers are forked from
    zygote.py          that process: imports once what all workers need, forks and kills them
    openings.py        what the prompt's end has opened, and the pool is given before the completion
    thoughts.py        what of a completion is a thought, and no answer
    worker.py          the worker process: finds the verifier by its kind, calls it, and turns what
                       it returns or raises into one verdict, sent back as JSON
      math/              kind "math": compares the answer in the text with `problem.answer`
      code/              kind "code": runs the program in the text against `problem.tests`
        sandbox/           where that program runs
    pool.py            the future resolves with the `Verdict` (`types.py`); a worker that died
                       is replaced, and its verdict is ERROR. `statistics.py` counts

`judge.verdicts` does this for many completions in order.

Your own verifier needs no change here: it is a function (problem, text) -> Verdict, bool or number,
named by `--config.verifier=package.module:function` or `path/to/file.py:function`. `worker.py` has
the contract, docs/own_task.md an example.

To add a kind with a short name, as "math" is one:

  1. write verify(problem, text) -> Verdict in a module or a sub-room of this room;
  2. in `worker.py`, write `_load_<kind>(options)`, which returns that function, ready to be called,
     and a line about it for the run's header ("" for none), and enter it in `VERIFIERS`; what is
     the same for all its workers and takes long goes into `prepare`;
  3. if it has settings, add keys to `Verifier` in `config/keys.py`, fields to `worker.Options`, and
     hand them on in `pool.py` and `judge.py`;
  4. name it in the comment of `verifier.kind` in `config/keys.py` and in docs/verifiers.md.
"""
