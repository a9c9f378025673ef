"""What programs run on: kinds of devices, also those that are not here, and what is compiled.

    chips.py           memory, bandwidth and arithmetic of each kind of device
    memory.py          how much of a device's memory programs may use, and who says so
    gpu_target.py      a GPU as XLA's compiler wants it described
    topology.py        a name such as h100:8 or v5e:4x4 -> devices to compile for, or on paper
    optimised_hlo.py   what a compiled program does: kernels, loops, FLOPs, bytes, collectives

Not decided here: which programs a run has (`memory_plan.py`), and what follows from its plan.

To add a GPU: a line in `chips.GPUS`, each value with its source; where its compute capability is
new, a line in `gpu_target.CAPABILITIES`. To add a TPU: lines in `chips.TPUS` and, by the name that
libtpu gives it, in `topology.TPUS` and `topology.KINDS`.
"""
