"""What a training run is made of, between the rooms below and the loop in `train.py`.

    problems.py       the run's problems: read, checked, cleaned, identified
    draw.py           which problems a step has, and how many have been drawn
    parts.py          from the config to mesh, tokenizer, prompts, policy, sampler, verifier pool
    sampler.py        sampling on this host
    rollout.py        prompts -> verified attempts: the one path, for everything
    streams.py        the two streams of a step: prompts, sampling, training sequences
    update.py         the compiled update with its shapes and shardings
    evaluate.py       how good a policy is; statistics.py: with which uncertainty
    measures.py       every metric: name, unit, meaning, and what is computed from attempts
    transitions.py    what corrections made of the attempts they quote
    parameters.py     finding, checking and loading parameters of a run or a model
    cold_start.py     supervised warm-up
    start.py          where a run begins or continues
    host_state.py     what is remembered between steps besides the TrainState
    training.py       a run in progress: when it is evaluated, saved, watched, ended
    comparison.py     a run's evaluations: learning curves, and what their attempts are
    verdict.py        whether it has learned anything
    unsolved.py       training problems without a right attempt, and what follows
    budget.py         how far it goes, by steps and by sampled tokens
    sizes.py          sizes that the config leaves open, from lengths and devices
    memory_plan.py    what its programs need on a device, from shapes alone
    proposal.py       overrides with which a run that does not fit would fit
    remat.py          what model.remat=auto means on the devices
    forecast/         how long a step and a run take on paper
    devices/          kinds of devices, those that are not here, and what is compiled for them
    hosts/            several processes as one run, and being asked to end
    watch/            heartbeat, health, learning, compilations, speed, profiles
    records/          what it writes on disk and on screen

Not decided here: the order of a step (`train.py`), the method's formulas (`rl/`), what a mode
prints (`commands/`). `tests/test_layering.py` has the order in which these files may import one
another.

To add a metric: compute it where it is known (from attempts: in `measures.py` or
`transitions.py`), put it into the step's `measures` in `train.py`, and add a line to the table in
`measures.py`; then run
`python -m cipo_jax.run.measures > docs/metrics.md`. A figure of it is a `Plot` in
`report/plots.py`.

To remember something between steps: a field of `HostState` with a default, set in `after_step`, and
read in `from_json`, also from checkpoints that do not have it yet.
"""
