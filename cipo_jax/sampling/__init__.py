"""Drawing completions from the policy: a fixed number of slots, a paged cache, and a loop.

Decided here: which request is decoded when, which pages of the cache it holds, how a token is
drawn. Not decided here: what is asked and what becomes of the answers (`run/rollout`), the model
and its attention to pages (`policy/`). This room imports `policy/` and `types`.

The path of one request:

    1. `engine.Engine.submit` checks it and gives it to `schedule`, which puts it into the queue of
       a row shard. The samples of one prompt share a `requests.CachedPrompt`.
    2. At a turn of the loop, `Engine.step`, `schedule.plan_prefill` looks at the heads of the
       queues. The prompt gets pages from `pages.PagePool`: those that hold a beginning it has in
       common with an earlier prompt, and new ones. `plan.prefill_arrays` makes the arguments of
       `decode.prefill`, which computes the missing keys and values, a stretch at a time.
    3. When the prompt is ready and a slot is free, `schedule.fill_slots` makes the request a
       `requests.Row`: a slot, and pages, shared with its siblings but for the last one.
    4. Before each chunk, `schedule.grow` gives every row the pages it may write to. If the cache is
       full, `schedule.evict` takes out the youngest request, which goes back to step 2 with the
       tokens it has.
    5. `plan.chunk_plan` makes the arguments of `decode.decode_chunk`, which runs up to `chunk`
       steps over the live rows; `choose.choose_tokens` draws each token.
    6. `Engine._harvest` reads the chunk's tokens. A request that met a stop token, a stop string or
       its limit leaves its slot and comes out of `Engine.step` as a `Completion`.

`Engine.sample` does all of this for a list of prompts. `weights` makes of the parameters what the
programs read. `settings` has the engine's sizes and the shapes that follow from them; `programs`
compiles the device programs from shapes alone, to plan memory.

To add a rule for which tokens may be drawn: a field of `choose.Choice`, its effect in
`choose_tokens`, a key in `config/keys.py`, and its way from there in `run/parts.open_engine`.
"""
