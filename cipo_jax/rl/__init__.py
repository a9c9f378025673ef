"""The method: anchors, shaping, advantages, controller (NumPy, on the host) and the objective and
its compiled update (JAX). All pure functions."""
