"""Drawing completions from the policy: jitted prefill and decode, and the host loop around them."""
