"""The method of the paper (CIPO, arXiv 2605.14539): from verdicts to a parameter update.

    base stream, group-relative advantages        advantages.group_advantages
    difficulty-aware anchors, share of successes  anchors.select_anchors
    rewards, risk-averse shaping, retention       rewards
    adaptive replay ratio rho                     replay.update_replay
    (ours) what bounds right anchors              limits.limit_right
    a token's loss: surrogate, ratio, KL          losses.PolicyLoss
    a stream's loss: what it is divided by        aggregate.Aggregation
    L_base + lambda L_correction                  train_step.make_train_step
    (ours) gradients of parts of a batch          transfer
    (ours) learnability of problems               difficulty
    sequences in rows, groups in minibatches      packing
    optimisers and schedules                      optimizer; bfloat16 parameters: rounding

On the host, in NumPy: advantages, anchors, rewards, replay, limits, difficulty, packing. On the
device, in JAX: losses, train_step, transfer, optimizer, and aggregate's token weights. Functions
change none of their arguments, except the state that a train step is given, and touch no file; a
function that draws at random takes a generator.

Not decided here: what is sampled and verified, and in which order a step calls these (`run/`,
`train.py`). This room imports `types` and `config` (its keys, checks and resolving). Model and mesh
are arguments: a score function, shardings.

To add

    an advantage estimator   its formula in `advantages.group_advantages`, its name in `NORMS`, a
                             test beside those of tests/rl/test_advantages.py that take every norm;
                             then the choices of `algorithm.advantage_norm` and
                             `correction_advantage_norm` in `config/`
    a loss variant           a function of log-ratio and advantages in `losses`, its case in
                             `PolicyLoss.__call__`, a field or value that selects it, its double
                             loop in tests/rl/test_policy_loss.py; then a key of `algorithm` in
                             `config/` and its way into `PolicyLoss` in `run/update.policy_loss`
    an aggregation           weights and normaliser in `aggregate.Aggregation`, a case in
                             tests/rl/test_aggregate.py, a choice of `algorithm.aggregation`
    an anchor rule           an argument of `anchors.select_anchors`, or a function with its result
                             `Selection`, which `run/streams` calls in its place; a property that
                             always holds in tests/rl/test_anchors.py; a key of `correction` in
                             `config/`
"""
