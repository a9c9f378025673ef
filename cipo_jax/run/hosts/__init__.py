"""Several processes as one run, and being asked to end.

    processes.py     this process and the others: connecting, gathering, watching
    exchange.py      attempts sent between hosts, as bytes
    preemption.py    SIGTERM: the notice, the exception, the exit status

Every host runs the same program and takes the same decisions from gathered data. A new decision
that depends on one host alone (a file, the clock, a verdict) is made by the first host and told by
`Hosts.first_says`, or asked of all by `any_says`; both are called by all hosts, at the same place.
"""
