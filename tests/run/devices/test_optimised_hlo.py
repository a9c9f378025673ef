"""Counts of a program that is small enough to count by hand."""

from cipo_jax.policy.triton_attention import most_flops
from cipo_jax.run.devices.optimised_hlo import collectives, hbm_traffic, parse, work

# Two loops: over 8 layers inside one over steps. Layouts as the TPU compiler writes them: S(1) is
# memory on the chip. Weights are bf16[8,64,32], a layer of them 4,096 bytes.
PROGRAM = """HloModule jit_decode

%sum (x: bf16[], y: bf16[]) -> bf16[] {
  %x.1 = bf16[] parameter(0)
  %y.1 = bf16[] parameter(1)
  ROOT %xy = bf16[] add(%x.1, %y.1)
}

%read_layer (p0: bf16[8,64,32], p1: s32[]) -> bf16[64,32] {
  %p0 = bf16[8,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %slice = bf16[1,64,32]{2,1,0:T(8,128)(2,1)} dynamic-slice(%p0, %p1, %p1, %p1), sizes={1,64,32}
  ROOT %flat = bf16[64,32]{1,0:T(8,128)(2,1)} bitcast(%slice)
}

%seen_otherwise (q0: f32[100,64]) -> f32[64,100] {
  %q0 = f32[100,64]{1,0:T(8,128)} parameter(0)
  ROOT %turned = f32[64,100]{0,1:T(8,128)} bitcast(%q0)
}

%multiply (r0: bf16[8,64,32], r1: s32[], r2: bf16[4,64]) -> bf16[4,32] {
  %r2 = bf16[4,64]{1,0:T(8,128)(2,1)S(1)} parameter(2)
  %r0 = bf16[8,64,32]{2,1,0:T(8,128)(2,1)} parameter(0)
  %r1 = s32[]{:T(128)S(6)} parameter(1)
  %weights = bf16[64,32]{1,0:T(8,128)(2,1)} fusion(%r0, %r1), kind=kLoop, calls=%read_layer
  ROOT %product = bf16[4,32]{1,0:T(8,128)(2,1)S(1)} convolution(%r2, %weights), dim_labels=bf_io->bf
}

%unembed (u0: f32[100,64], u1: f32[4,64]) -> f32[4,100] {
  %u0 = f32[100,64]{1,0:T(8,128)} parameter(0)
  %u1 = f32[4,64]{1,0:T(8,128)S(1)} parameter(1)
  %table = f32[64,100]{0,1:T(8,128)} fusion(%u0), kind=kLoop, calls=%seen_otherwise
  ROOT %logits = f32[4,100]{1,0:T(8,128)} convolution(%u1, %table), dim_labels=bf_io->bf
}

%store (s0: bf16[1000,2,8], s1: s32[4], s2: bf16[4,2,8]) -> bf16[1000,2,8] {
  %s0 = bf16[1000,2,8]{2,1,0:T(2,128)(2,1)} parameter(0)
  %s1 = s32[4]{0:T(128)S(1)} parameter(1)
  %s2 = bf16[4,2,8]{2,1,0:T(2,128)(2,1)S(1)} parameter(2)
  ROOT %scatter = bf16[1000,2,8]{2,1,0} scatter(%s0, %s1, %s2), to_apply=%sum
}

%layers (a: (s32[], bf16[8,64,32], bf16[1000,2,8])) -> (s32[], bf16[8,64,32], bf16[1000,2,8]) {
  %a = (s32[]{:T(128)}, bf16[8,64,32]{2,1,0}, bf16[1000,2,8]{2,1,0}) parameter(0)
  %layer = s32[]{:T(128)S(6)} get-tuple-element(%a), index=0
  %stacked = bf16[8,64,32]{2,1,0:T(8,128)(2,1)} get-tuple-element(%a), index=1
  %cache = bf16[1000,2,8]{2,1,0:T(2,128)(2,1)} get-tuple-element(%a), index=2
  %x = bf16[4,64]{1,0:T(8,128)(2,1)S(1)} broadcast(%layer), dimensions={}
  %at = s32[4]{0:T(128)S(1)} broadcast(%layer), dimensions={}
  %news = bf16[4,2,8]{2,1,0:T(2,128)(2,1)S(1)} broadcast(%layer), dimensions={}
  %y = bf16[4,32]{1,0:T(8,128)(2,1)S(1)} fusion(%stacked, %layer, %x), kind=kOutput, calls=%multiply
  %z = bf16[4,32]{1,0:T(8,128)(2,1)S(1)} all-reduce(%y), to_apply=%sum
  %written = bf16[1000,2,8]{2,1,0} fusion(%cache, %at, %news), kind=kCustom, calls=%store
  %o = bf16[4,8]{1,0:T(8,128)(2,1)S(1)} custom-call(%x, %written), custom_call_target="kernel"
  ROOT %t = (s32[], bf16[8,64,32], bf16[1000,2,8]) tuple(%layer, %stacked, %written)
}

%steps (b: (s32[], bf16[8,64,32], bf16[1000,2,8], f32[100,64])) -> (s32[]) {
  %b = (s32[], bf16[8,64,32], bf16[1000,2,8], f32[100,64]) parameter(0)
  %step = s32[]{:T(128)S(6)} get-tuple-element(%b), index=0
  %embedding = f32[100,64]{1,0:T(8,128)} get-tuple-element(%b), index=3
  %hidden = f32[4,64]{1,0:T(8,128)S(1)} broadcast(%step), dimensions={}
  %loop = (s32[], bf16[8,64,32], bf16[1000,2,8]) while(%b), condition=%going, body=%layers
  %scores = f32[4,100]{1,0:T(8,128)} fusion(%embedding, %hidden), kind=kOutput, calls=%unembed
  %all = (f32[1,4,100]{2,1,0}, f32[2,4,100]{2,1,0}) all-gather-start(%scores), dimensions={0}
  ROOT %u = (s32[]) tuple(%step)
}

ENTRY %main (c: bf16[8,64,32]) -> s32[] {
  %c = bf16[8,64,32]{1,2,0:T(8,128)(2,1)} parameter(0)
  %turned_over = bf16[8,64,32]{2,1,0:T(8,128)(2,1)} copy(%c)
  %all_steps = (s32[]) while(%turned_over), condition=%going, body=%steps
}
"""

LAYER, STACK, EMBEDDING, SCORES = 64 * 32 * 2, 8 * 64 * 32 * 2, 100 * 64 * 4, 4 * 100 * 4


def test_traffic_counts_slices_changes_and_results_in_memory() -> None:
    traffic = hbm_traffic(*parse(PROGRAM))
    assert traffic[0] == {"read": STACK, "written": STACK}
    # The head is read whole although only by another name; the scores are read to be gathered.
    gathered = 3 * SCORES  # the operand and the results, none of them in a memory of the chip
    assert traffic[1] == {"read": EMBEDDING + SCORES, "written": SCORES + gathered}
    # A layer's slice of the weights; of the cache only what is changed; the kernel's for itself.
    cache = 1000 * 2 * 8 * 2
    assert traffic[2] == {"read": LAYER, "written": 4 * 2 * 8 * 2, "given to kernels": cache}


def test_collectives_by_kind_and_depth() -> None:
    assert collectives(*parse(PROGRAM)) == {
        "all-gather": [{"depth": 1, "count": 1, "bytes": 2 * SCORES}],
        "all-reduce": [{"depth": 2, "count": 1, "bytes": 4 * 32 * 2}],
    }


# As XLA writes it for a GPU: a loop whose turns it knows, and one that ends when it ends. A branch
# multiplies [4, 64] with [64, 32] in a fusion; cuDNN attends, and kernels of our own do.
GPU_PROGRAM = """HloModule jit_step

%product (p0: f32[4,64], p1: f32[64,32]) -> f32[4,32] {
  %p0 = f32[4,64]{1,0} parameter(0)
  %p1 = f32[64,32]{1,0} parameter(1)
  ROOT %dot = f32[4,32]{1,0} dot(%p0, %p1), lhs_contracting_dims={1}, rhs_contracting_dims={0}
}

%nothing (n: (f32[4,64], f32[64,32])) -> f32[4,32] {
  %n = (f32[4,64]{1,0}, f32[64,32]{1,0}) parameter(0)
  ROOT %zeros = f32[4,32]{1,0} broadcast(%n), dimensions={}
}

%much (m: (f32[4,64], f32[64,32])) -> f32[4,32] {
  %m = (f32[4,64]{1,0}, f32[64,32]{1,0}) parameter(0)
  %m0 = f32[4,64]{1,0} get-tuple-element(%m), index=0
  %m1 = f32[64,32]{1,0} get-tuple-element(%m), index=1
  %copied = f32[64,32]{1,0} copy(%m1)
  ROOT %fused = f32[4,32]{1,0} fusion(%m0, %copied), kind=kCustom, calls=%product
}

%turn (t: (s32[], f32[4,64], f32[64,32])) -> (s32[], f32[4,64], f32[64,32]) {
  %t = (s32[], f32[4,64]{1,0}, f32[64,32]{1,0}) parameter(0)
  %t0 = s32[] get-tuple-element(%t), index=0
  %branch = f32[4,32]{1,0} conditional(%t0, %t, %t), branch_computations={%nothing, %much}
  ROOT %after = (s32[], f32[4,64]{1,0}, f32[64,32]{1,0}) tuple(%t0, %t, %t)
}

%counted (u: (s32[], f32[4,64], f32[64,32])) -> pred[] {
  %u = (s32[], f32[4,64]{1,0}, f32[64,32]{1,0}) parameter(0)
  ROOT %less = pred[] compare(%u, %u), direction=LT
}

%while_live (v: (s32[], f32[4,64], f32[64,32])) -> (s32[], f32[4,64], f32[64,32]) {
  %v = (s32[], f32[4,64]{1,0}, f32[64,32]{1,0}) parameter(0)
  %v0 = s32[] get-tuple-element(%v), index=0
  %inner = (s32[], f32[4,64]{1,0}, f32[64,32]{1,0}) while(%v), condition=%counted, body=%turn, backend_config={"known_trip_count":{"n":"8"},"dynamic_variable_tuple_indices":[]}
  ROOT %w = (s32[], f32[4,64]{1,0}, f32[64,32]{1,0}) tuple(%v0, %inner, %inner)
}

ENTRY %main (q: bf16[2,100,4,16], k: bf16[2,100,2,16]) -> s32[] {
  %q = bf16[2,100,4,16]{3,2,1,0} parameter(0)
  %k = bf16[2,100,2,16]{3,2,1,0} parameter(1)
  %attention = (bf16[2,100,4,16]{3,2,1,0}, u8[8]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax"
  %gradient = (bf16[2,100,4,16]{3,2,1,0}, u8[8]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmaxBackward"
  %causal = (bf16[2,100,4,16]{3,2,1,0}, u8[8]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", backend_config={"cudnn_fmha_backend_config":{"mask_type":"CAUSAL"}}
  %own = (bf16[2,100,4,16]{3,2,1,0}, f32[2,4,100]{2,1,0}) custom-call(%q, %k, %k), custom_call_target="__gpu$xla.gpu.triton", backend_config={debug = false, grid_x = 1 : i32, ir = "ML\00 name", name = "_attend_block", num_stages = 2 : i32}
  %other = (bf16[2,100,4,16]{3,2,1,0}, f32[2,4,100]{2,1,0}) custom-call(%q, %k, %k), custom_call_target="__gpu$xla.gpu.triton", backend_config={debug = false, grid_x = 1 : i32, ir = "ML\00 name", name = "_read_part", num_stages = 2 : i32}
  ROOT %steps = (s32[], f32[4,64]{1,0}, f32[64,32]{1,0}) while(%q), condition=%counted, body=%while_live, backend_config={}
}
"""  # noqa: E501


def test_work_is_counted_loop_by_loop() -> None:
    program = work(*parse(GPU_PROGRAM))
    attention = 2 * 4 * 100 * 100 * 16 * 2
    causal = 2 * 4 * (100 * 101 / 2) * 16 * 2
    own = most_flops("_attend_block", (2, 100, 4, 16), itemsize=2)
    assert (program.kernels, program.flops) == (5, 7 * attention + 2 * causal + own)
    (steps,) = program.inner
    # The host reads the condition, which a kernel computes.
    assert (steps.turns, steps.kernels, steps.flops) == (None, 1, 0)
    (layers,) = steps.inner
    product, weights = 2 * 4 * 64 * 32, 64 * 32 * 4
    # Of the branches, the one with the product: a copy and a fusion.
    assert (layers.turns, layers.kernels, layers.flops) == (8, 2, product)
    assert layers.bytes == 2 * weights + (4 * 64 * 4 + weights + 4 * 32 * 4)
    # The loop that ends when it ends is counted once.
    assert program.total("kernels") == 5 + 1 + 8 * 2
    assert program.open_loops == [steps]
    lines = program.lines()
    assert len(lines) == 3 and lines[0].startswith("a call: 5 kernels, ")
    assert lines[1].startswith("  each of as many turns as needed: 1 kernels")
    assert lines[2].startswith("    each of 8 turns: 2 kernels, 1.64e+04 FLOPs, 2.")
