"""Pods: what is counted of a compiled module, against XLA's own analysis and by hand; rooflines; the verb.

The parts that need the TPU's compiler skip where libtpu is not installed.
"""

import dataclasses
import importlib.util
import json
import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import runs
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from cd_jax.aot import roofline, sharding
from cd_jax.aot.chips import CHIPS, GIB, Topology, topology
from cd_jax.aot.devices import devices
from cd_jax.aot.hlo_costs import Collective, Costs, Kernel, costs
from cd_jax.aot.hlo_text import Array, parse
from cd_jax.aot.measure import DoesNotFit, measure
from cd_jax.errors import RequestError
from cd_jax.nets import network
from cd_jax.nets.config import T5Config
from cd_jax.solver.partitioning import Partitioner
from cd_jax.solver.solver import Solver

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed; pip install 'cd_jax[tpu]'"
)
LAYERS, WIDTH, INNER, HEADS = 4, 256, 512, 4


# A network of their own: unrolled, XLA's analysis counts all of it; scanned, only this package does.


def _layer(x, weights):
    wq, wk, wv, wo, wi, w2 = weights
    batch, length, _ = x.shape
    y = x * jax.lax.rsqrt((x.astype(jnp.float32) ** 2).mean(-1, keepdims=True) + 1e-6).astype(x.dtype)
    query, key, value = (jnp.reshape(y @ w, (batch, length, HEADS, -1)) for w in (wq, wk, wv))
    attention = jax.nn.softmax(jnp.einsum("bqhd,bkhd->bhqk", query, key).astype(jnp.float32)).astype(x.dtype)
    x = x + jnp.einsum("bhqk,bkhd->bqhd", attention, value).reshape(batch, length, -1) @ wo
    return x + jax.nn.gelu(x @ wi) @ w2


def _loss(weights, x, scan):
    weights = jax.tree.map(lambda w: w.astype(x.dtype), weights)
    if scan:
        x, _ = jax.lax.scan(lambda carry, layer: (_layer(carry, layer), None), x, weights)
    else:
        for number in range(LAYERS):
            x = _layer(x, jax.tree.map(lambda w, number=number: w[number], weights))
    return (x.astype(jnp.float32) ** 2).mean()


def _step(weights, x, scan):
    loss, gradients = jax.value_and_grad(_loss)(weights, x, scan)
    return jax.tree.map(lambda w, g: w - 0.1 * g, weights, gradients), loss


def _compiled(chips, scan, dtype=jnp.float32, along=None, batch=4, length=128):
    """The step, compiled for `chips` as one axis `data`; `along`: of all weights, None: whole on every chip."""
    mesh = Mesh(np.array(chips), ("data",))
    shapes = [(LAYERS, WIDTH, WIDTH)] * 4 + [(LAYERS, WIDTH, INNER), (LAYERS, INNER, WIDTH)]
    weights = [
        jax.ShapeDtypeStruct(shape, jnp.float32, sharding=NamedSharding(mesh, along or PartitionSpec()))
        for shape in shapes
    ]
    x = jax.ShapeDtypeStruct((batch, length, WIDTH), dtype, sharding=NamedSharding(mesh, PartitionSpec("data")))
    return jax.jit(_step, static_argnums=2, donate_argnums=0).lower(tuple(weights), x, scan).compile()


# Against XLA's analysis


def test_an_unrolled_module_counts_as_xla_counts_it():
    compiled = _compiled(jax.devices()[:1], scan=False)
    counted, analysis = costs(compiled.as_text()), compiled.cost_analysis()
    assert counted.flops == pytest.approx(analysis["flops"], rel=0.005)
    assert counted.bytes_accessed == pytest.approx(analysis["bytes accessed"], rel=0.02)
    assert counted.uncounted_loops == 0


def test_a_scanned_module_counts_every_layer():
    scanned, unrolled = (_compiled(jax.devices()[:1], scan=scan) for scan in (True, False))
    counted = costs(scanned.as_text())
    assert counted.flops == pytest.approx(costs(unrolled.as_text()).flops, rel=0.04)
    assert counted.matmul_flops > 0.95 * costs(unrolled.as_text()).matmul_flops
    assert scanned.cost_analysis()["flops"] < 0.5 * counted.flops


@pytest.mark.parametrize("padding", [((0, 0), (0, 0)), ((3, 3), (2, 1))])
@pytest.mark.parametrize("dilation", [(1, 1), (2, 3)])
def test_a_convolution_counts_what_it_multiplies(padding, dilation):
    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(
            x, kernel, (1, 2), padding, lhs_dilation=dilation, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    x, kernel = jnp.ones((2, 9, 11, 3)), jnp.ones((4, 3, 3, 5))
    text = jax.jit(convolve).lower(x, kernel).compile().as_text()
    # Of ones, every product adds one to the sum of the result.
    assert costs(text).matmul_flops == pytest.approx(2 * float(convolve(x, kernel).sum()), abs=0.5)


def test_nested_loops_and_a_loop_that_may_stop_early():
    def step(x):
        def body(state):
            i, x = state
            x, _ = jax.lax.scan(lambda carry, _: (jnp.tanh(carry @ carry), None), x, None, length=3)
            return i + 1, x

        return jax.lax.while_loop(lambda state: (state[0] < 7) & (state[1][0, 0] < 9.0), body, (0, x))[1]

    text = jax.jit(step).lower(jax.ShapeDtypeStruct((64, 64), jnp.float32)).compile().as_text()
    assert costs(text).matmul_flops == 7 * 3 * 2 * 64**3


def test_collectives_of_a_sharded_program():
    mesh = Mesh(np.array(jax.devices()[:4]), ("data",))
    sharded, whole = NamedSharding(mesh, PartitionSpec("data")), NamedSharding(mesh, PartitionSpec())
    x = jax.ShapeDtypeStruct((64, 32), jnp.float32, sharding=sharded)
    gathered = jax.jit(lambda x: x * 2, out_shardings=whole).lower(x).compile().as_text()
    assert costs(gathered).collectives == {"all-gather": (1, 64 * 32 * 4)}
    summed = jax.jit(lambda x: x.sum(0), out_shardings=whole).lower(x).compile().as_text()
    assert costs(summed).collectives == {"all-reduce": (1, 32 * 4)}


@pytest.mark.slow
def test_the_solver_scanned_counts_as_it_does_unrolled():
    def train_step(scan_layers):
        config = T5Config(vocab_size=256, emb_dim=64, num_heads=4, head_dim=16, mlp_dim=128, scan_layers=scan_layers)
        config = dataclasses.replace(config, num_encoder_layers=3, num_decoder_layers=3, dropout_rate=0.0)
        solver = Solver(config, 256, optax.constant_schedule(0.1), partitioner=Partitioner(devices=jax.devices()[:1]))
        return costs(solver.lower_train_step(2, 1, 32, 16).compile().as_text())

    scanned, unrolled = train_step(True), train_step(False)
    assert scanned.matmul_flops == pytest.approx(unrolled.matmul_flops, rel=0.03)
    assert scanned.uncounted_loops == unrolled.uncounted_loops == 0


# By hand: what the TPU's compiler writes

TPU_TEXT = """HloModule step, is_scheduled=true, num_partitions=8

%slice_fusion (p0: bf16[6,8,128], p1: s32[]) -> bf16[1,8,128] {
  %p0 = bf16[6,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %p1 = s32[]{:T(128)S(6)} parameter(1)
  %zero = s32[]{:T(128)} constant(0)
  ROOT %taken = bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)} dynamic-slice(%p0, %p1, %zero, %zero), \
dynamic_slice_sizes={1,8,128}
}

%update_fusion (q0: f32[6,8,128], q1: bf16[1,8,128], q2: s32[]) -> f32[6,8,128] {
  %q0 = f32[6,8,128]{2,1,0:T(8,128)} parameter(0)
  %q1 = bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %wide = f32[1,8,128]{2,1,0:T(8,128)} convert(%q1)
  %q2 = s32[]{:T(128)S(6)} parameter(2)
  %none = s32[]{:T(128)} constant(0)
  ROOT %put = f32[6,8,128]{2,1,0:T(8,128)} dynamic-update-slice(%q0, %wide, %q2, %none, %none)
}

%gather_start (g0: bf16[1,8,128]) -> (bf16[1,8,128], bf16[1,32,128], u32[]) {
  %g0 = bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %gathered = bf16[1,32,128]{2,1,0:T(8,128)(2,1)} all-gather(%g0), channel_id=3, replica_groups=[2,4]<=[4,2]T(1,0), \
dimensions={1}
  ROOT %begun = (bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)}, bf16[1,32,128]{2,1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) \
custom-call(%gathered), custom_call_target="AsyncCollectiveStart"
}

%gather_done (d0: bf16[1,8,128], d1: bf16[1,32,128], d2: u32[]) -> bf16[1,32,128] {
  %d0 = bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(0)
  %d1 = bf16[1,32,128]{2,1,0:T(8,128)(2,1)S(1)} parameter(1)
  %d2 = u32[]{:S(2)} parameter(2)
  %again = bf16[1,32,128]{2,1,0:T(8,128)(2,1)} all-gather(%d0), channel_id=3, replica_groups=[2,4]<=[4,2]T(1,0), \
dimensions={1}
  ROOT %ended = bf16[1,32,128]{2,1,0:T(8,128)(2,1)S(1)} custom-call(%d0, %d1, %again, %d2), \
custom_call_target="AsyncCollectiveDone"
}

%scatter_fusion (s0: f32[64,128]) -> f32[8,128] {
  %s0 = f32[64,128]{1,0:T(8,128)S(1)} parameter(0)
  %reduced = f32[64,128]{1,0:T(8,128)S(1)} all-reduce(%s0), replica_groups={{0,1,2,3,4,5,6,7}}, to_apply=%sum
  %me = s32[]{:T(128)} constant(0)
  ROOT %mine = f32[8,128]{1,0:T(8,128)S(1)} dynamic-slice(%reduced, %me, %me), dynamic_slice_sizes={8,128}
}

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %added = f32[]{:T(128)} add(%a, %b)
}

%body (state: (s32[], bf16[6,8,128], f32[6,8,128])) -> (s32[], bf16[6,8,128], f32[6,8,128]) {
  %state = (s32[]{:T(128)}, bf16[6,8,128]{2,1,0:T(8,128)(2,1)}, /*index=2*/f32[6,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%state), index=0
  %i.copy = s32[]{:T(128)S(6)} copy(%i)
  %two = s32[]{:T(128)} constant(2)
  %next = s32[]{:T(128)} add(%i.copy, %two)
  %from = bf16[6,8,128]{2,1,0:T(8,128)(2,1)} get-tuple-element(%state), index=1
  %to = f32[6,8,128]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %slice = bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)} fusion(%from, %i.copy), kind=kLoop, calls=%slice_fusion
  %start = (bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)}, bf16[1,32,128]{2,1,0:T(8,128)(2,1)S(1)}, u32[]{:S(2)}) \
fusion(%slice), kind=kCustom, calls=%gather_start
  %g.in = bf16[1,8,128]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%start), index=0
  %g.out = bf16[1,32,128]{2,1,0:T(8,128)(2,1)S(1)} get-tuple-element(%start), index=1
  %g.flag = u32[]{:S(2)} get-tuple-element(%start), index=2
  %done = bf16[1,32,128]{2,1,0:T(8,128)(2,1)S(1)} fusion(%g.in, %g.out, %g.flag), kind=kCustom, calls=%gather_done
  %updated = f32[6,8,128]{2,1,0:T(8,128)} fusion(%to, %slice, %i.copy), kind=kLoop, calls=%update_fusion
  ROOT %state.next = (s32[]{:T(128)}, bf16[6,8,128]{2,1,0:T(8,128)(2,1)}, /*index=2*/f32[6,8,128]{2,1,0:T(8,128)}) \
tuple(%next, %from, %updated)
}

%condition (state.c: (s32[], bf16[6,8,128], f32[6,8,128])) -> pred[] {
  %state.c = (s32[]{:T(128)}, bf16[6,8,128]{2,1,0:T(8,128)(2,1)}, f32[6,8,128]{2,1,0:T(8,128)}) parameter(0)
  %i.c = s32[]{:T(128)} get-tuple-element(%state.c), index=0
  %six = s32[]{:T(128)} constant(6)
  ROOT %less = pred[]{:T(512)} compare(%i.c, %six), direction=LT
}

ENTRY %main (x: bf16[6,8,128], y: f32[6,8,128], z: f32[64,128]) -> f32[6,8,128] {
  %x = bf16[6,8,128]{2,1,0:T(8,128)(2,1)} parameter(0)
  %y = f32[6,8,128]{2,1,0:T(8,128)} parameter(1)
  %z = f32[64,128]{1,0:T(8,128)} parameter(2)
  %prefetch = (f32[64,128]{1,0:T(8,128)S(1)}, f32[64,128]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%z)
  %fetched = f32[64,128]{1,0:T(8,128)S(1)} copy-done(%prefetch)
  %part = f32[8,128]{1,0:T(8,128)S(1)} fusion(%fetched), kind=kCustom, calls=%scatter_fusion
  %zero.e = s32[]{:T(128)} constant(0)
  %initial = (s32[]{:T(128)}, bf16[6,8,128]{2,1,0:T(8,128)(2,1)}, f32[6,8,128]{2,1,0:T(8,128)}) tuple(%zero.e, %x, %y)
  %loop = (s32[]{:T(128)}, bf16[6,8,128]{2,1,0:T(8,128)(2,1)}, f32[6,8,128]{2,1,0:T(8,128)}) while(%initial), \
condition=%condition, body=%body
  ROOT %result = f32[6,8,128]{2,1,0:T(8,128)} get-tuple-element(%loop), index=2
}
"""


def test_slices_updates_and_memories_of_the_tpu():
    counted = {kernel.name: kernel for kernel in costs(TPU_TEXT).kernels}
    # The loop goes by two, to six.
    assert counted["slice"].times == counted["updated"].times == 3
    # A slice of bf16 [8, 128] comes from HBM and stays in vector memory; an update of f32 [8, 128] goes to HBM.
    assert counted["slice"].hbm_bytes == 8 * 128 * 2
    assert counted["updated"].hbm_bytes == 8 * 128 * 4
    # A copy that runs ahead counts once, where it starts, and only its half in HBM.
    assert counted["prefetch"].hbm_bytes == 64 * 128 * 4
    assert "fetched" not in counted


def test_collectives_of_the_tpu_count_once_and_by_what_they_are():
    counted = costs(TPU_TEXT)
    assert counted.collectives == {"all-gather": (3, 3 * 32 * 128 * 2), "reduce-scatter": (1, 64 * 128 * 4)}
    found = {c.kind: c for kernel in counted.kernels for c in kernel.collectives}
    assert found["all-gather"].overlapped
    assert not found["reduce-scatter"].overlapped
    assert (found["all-gather"].group, found["reduce-scatter"].group) == (4, 8)


@pytest.mark.parametrize(
    "written, devices_in_a_group",
    [
        ("{{0,2},{1,3},{4,6},{5,7}}", 2),
        ("[4,2]<=[2,4]T(1,0)", 2),
        ("mesh['a'=2,'b'=4] {'b'}", 4),
        ("mesh['a'=2,'b'=4] {'a','b'}", 8),
        ("mesh['a'=2,'b'=4] {'b':(2)2}", 2),
        ("{}", 8),
    ],
)
def test_the_groups_of_a_collective_in_every_notation(written, devices_in_a_group):
    text = TPU_TEXT.replace("replica_groups={{0,1,2,3,4,5,6,7}}", f"replica_groups={written}")
    (found,) = [c for k in costs(text).kernels for c in k.collectives if c.kind == "reduce-scatter"]
    assert found.group == devices_in_a_group


def test_what_a_ring_sends():
    def sent(kind):
        return Collective(kind, 1000, 4, overlapped=False).wire_bytes

    assert sent("all-reduce") == 2 * sent("all-gather") == 2 * sent("reduce-scatter") == 1500
    assert sent("collective-permute") == 1000


@pytest.mark.parametrize(
    "dtype, dims, layout, expected",
    [
        ("f32", (3, 100), "1,0:T(8,128)", 8 * 128 * 4),
        ("f32", (100, 3), "0,1:T(8,128)", 8 * 128 * 4),
        ("bf16", (2, 9, 128), "2,1,0:T(8,128)(2,1)S(1)", 2 * 16 * 128 * 2),
        ("f32", (5,), "0:T(128)", 128 * 4),
        ("pred", (7, 3), "1,0", 21),
        ("s4", (16,), "", 8),
    ],
)
def test_an_array_takes_whole_tiles(dtype, dims, layout, expected):
    assert Array(dtype, dims, layout).bytes == expected


def test_a_loop_of_unknown_length_is_told():
    text = TPU_TEXT.replace(
        "%six = s32[]{:T(128)} constant(6)", "%six = s32[]{:T(128)} get-tuple-element(%state.c), index=9"
    )
    text = text.replace("tuple(%zero.e, %x, %y)", "custom-call(%x)")
    counted = costs(text)
    assert counted.uncounted_loops == 1
    assert {kernel.name: kernel for kernel in counted.kernels}["slice"].times == 1
    assumed = costs(text, assumed_trips=5)
    assert assumed.uncounted_loops == 0
    assert {kernel.name: kernel for kernel in assumed.kernels}["slice"].times == 5


def test_text_that_is_no_module():
    with pytest.raises(ValueError, match="no ENTRY"):
        parse("HloModule nothing")


# Rooflines


def _kernel(name, times=1, matmul_flops=0, hbm_bytes=0, collectives=(), opcode="fusion"):
    return Kernel(name, opcode, "", times, matmul_flops, 0, hbm_bytes, hbm_bytes, tuple(collectives))


def test_the_roofline_time_by_hand():
    slice_ = topology("v5e:4x4")
    flops, hbm, ici = CHIPS["v5e"].flops, CHIPS["v5e"].hbm_bandwidth, CHIPS["v5e"].ici_bandwidth
    kernels = [
        _kernel("compute", 2, matmul_flops=flops, hbm_bytes=hbm / 2),
        _kernel("memory", 1, matmul_flops=flops / 2, hbm_bytes=hbm * 3),
        _kernel("exposed", 1, collectives=[Collective("all-gather", int(ici * 16 / 15), 16, overlapped=False)]),
        _kernel("hidden", 1, collectives=[Collective("collective-permute", int(ici), 4, overlapped=True)]),
        _kernel("ahead", 1, hbm_bytes=hbm, opcode="copy-start"),
    ]
    times = roofline.roofline(Costs(kernels, 0), slice_)
    assert times.compute == pytest.approx(2.5)
    assert times.hbm == pytest.approx(1 + 3 + 1)
    # 16 devices are the whole slice, whose links all carry; 4 lie along one of its two dimensions.
    assert times.collectives == pytest.approx(1 + 2)
    assert times.total == pytest.approx(1 + max(2 * 1 + 3, 5, 2))


def test_model_flops_are_those_of_the_network():
    config = T5Config(vocab_size=512, emb_dim=64, num_heads=2, head_dim=16, mlp_dim=96, num_encoder_layers=3)
    config = dataclasses.replace(config, num_decoder_layers=2, dropout_rate=0.0)
    shape = roofline.Shape(batch_size=2, passages=3, input_length=32, target_length=24)
    model = network.T5(config)
    tokens = jnp.ones((2, 3, 32), jnp.int32), jnp.ones((2, 24), jnp.int32)
    parameters = jax.eval_shape(model.init, jax.random.key(0), *tokens)
    counted = costs(jax.jit(model.apply).lower(parameters, *tokens).compile().as_text())
    assert roofline.forward_flops(config, shape) == pytest.approx(counted.matmul_flops, rel=0.001)
    assert roofline.train_flops(config, shape) == 3 * roofline.forward_flops(config, shape)


def test_peaks_of_a_slice():
    v3, v4 = topology("v3:4x4"), topology("v4:4x4x4")
    assert (v3.num_devices, v4.num_devices) == (32, 64)
    assert v3.device_hbm_bytes * 2 == v4.device_hbm_bytes == 32 * GIB
    assert v4.device_ici_bandwidth(64) == 3 * v4.device_ici_bandwidth(16)


# Requests


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("v5e:16x32", "16x16 and 8x16"),
        ("v5e:3x3", "2x4 and 4x4"),
        ("v5e:8x4", "4x8"),
        ("v6e:32x32", "16x16"),
        ("v4:8x4x4", "4x4x8"),
        ("v4:2x2x3", "2x2x4"),
        ("v4:16x16x20", "16x16x16"),
        ("v5p:16x16x28", "16x16x24"),
        ("tpu7x:5x4x4", "4x4x4"),
        ("v3:1x1", "2x2"),
    ],
)
def test_a_slice_that_there_is_not_is_refused_with_the_nearest(name, nearest):
    with pytest.raises(RequestError, match=rf"^--topology={name}: .*the nearest are .*{nearest}"):
        topology(name)


# Those of the documentation's tables.
PUBLISHED = {
    "v3": "2x2 4x4 32x32",
    "v4": "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 4x4x16 8x8x8 8x8x12 12x12x24",
    "v5e": "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16",
    "v5p": "2x2x1 2x2x2 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16 16x16x16 16x16x24",
    "v6e": "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16",
    "tpu7x": "2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 8x16x16 16x16x16",
}


@pytest.mark.parametrize("chip", PUBLISHED)
def test_published_slices(chip):
    for shape in PUBLISHED[chip].split():
        assert topology(f"{chip}:{shape}").num_chips == math.prod(map(int, shape.split("x")))


@needs_libtpu
@pytest.mark.parametrize("name", [f"{name}:{'x'.join(map(str, chip.slices[2]))}" for name, chip in CHIPS.items()])
def test_the_compiler_knows_every_chip(name):
    assert len(devices(topology(name))) == topology(name).num_devices


@needs_libtpu
def test_nothing_is_said_of_a_cache_of_compilations(tmp_path, user_environment):
    given = [sys.executable, "-m", "cd_jax", "aot", "--topology=v5e:2x2", *TINY]
    cache = {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run(given, env=user_environment | cache, capture_output=True, text=True, timeout=600)
    assert (done.returncode, done.stderr) == (0, "")
    assert not (tmp_path / "cache").exists() or not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("name", ["v9:2x2", "v5e", "v5e:4x4x4", "v4:8x8", "v5e:0x4", "rubbish"])
def test_a_slice_that_is_not_known(name):
    with pytest.raises(RequestError, match=f"--topology={name}"):
        topology(name)


def test_libtpu_is_lacking(monkeypatch):
    monkeypatch.setitem(sys.modules, "libtpu", None)
    with pytest.raises(RequestError, match=r"pip install 'cd_jax\[tpu\]'"):
        devices(topology("v5e:2x2"))


@needs_libtpu
def test_a_slice_that_the_compiler_does_not_know():
    with pytest.raises(RequestError, match="--topology=v5e:3x3: libtpu knows no such slice"):
        devices(Topology("v5e:3x3", CHIPS["v5e"], (3, 3)))


def test_every_file_of_rules_is_found_and_goes_with_its_meshes():
    assert sharding.that_use((8, 1), sharding.NAMES) == ["data", "fsdp"]
    assert sharding.that_use((4, 2), sharding.NAMES) == ["model", "fsdp_model", "fsdp_2d"]
    assert ("embed", "data") in sharding.rules("fsdp")
    with pytest.raises(RequestError, match="'tensor'"):
        sharding.rules("tensor")


@needs_libtpu
@pytest.mark.parametrize(
    "given, words",
    [
        (["--topology=v5e:2x2", "--mesh=3x1"], ["--mesh=3x1", "4"]),
        (["--topology=v5e:2x2", "--mesh=four"], ["--mesh=four", "DATAxMODEL"]),
        (["--topology=v5e:2x2", "--mesh=4x1", "--gin.BATCH_SIZE=6"], ["BATCH_SIZE=6", "--gin.BATCH_SIZE=8"]),
        (["--topology=v9:2x2"], ["--topology=v9:2x2", "v5e"]),
        (["--topology=v5e:2x2"], ["no model", "--gin_file=models/large.gin"]),
        (
            ["--topology=v5e:2x2", "--mesh=2x2", "--gin.BATCH_SIZE=2", "--gin_file=sharding/fsdp_2d.gin"],
            ["BATCH_SIZE=2", "2x2"],
        ),
    ],
)
def test_requests_that_cannot_be(given, words, capfd):
    model = [] if "no model" in words else ["--gin_file=models/tiny.gin"]
    assert runs.here(["aot", *given, *model]) == 2
    error = capfd.readouterr().err
    assert error.startswith("cd_jax: ")
    assert error.count("\n") == 1
    for word in words:
        assert word in error


# The TPU's compiler


@needs_libtpu
def test_on_the_tpu_unrolled_scanned_and_xla_agree():
    chips = devices(topology("v5e:2x2"))[:1]
    unrolled, scanned = (_compiled(chips, scan, jnp.bfloat16, batch=8, length=256) for scan in (False, True))
    counted, analysis = costs(unrolled.as_text()), unrolled.cost_analysis()
    assert counted.flops == pytest.approx(analysis["flops"], rel=0.01)
    assert counted.bytes_accessed + _counted_twice(unrolled.as_text()) == pytest.approx(
        analysis["bytes accessed"], rel=0.03
    )
    assert counted.hbm_bytes < counted.bytes_accessed
    assert costs(scanned.as_text()).flops == pytest.approx(counted.flops, rel=0.03)
    assert scanned.cost_analysis()["flops"] < 0.5 * counted.flops


def _counted_twice(text: str) -> int:
    """What XLA counts of the done of a copy, and of a concatenation that is a bitcast; nothing moves there."""
    module = parse(text)
    total = 0
    for instruction in module.entry.instructions.values():
        size = sum(array.bytes for array in instruction.outputs)
        total += size * (instruction.opcode == "copy-done")
        total += 2 * size * ('"ConcatBitcast"' in instruction.attributes)
    return total


@needs_libtpu
def test_on_the_tpu_sharded_weights_are_gathered_in_every_layer():
    slice_ = topology("v5e:2x2")
    along = PartitionSpec(None, "data")
    counted = costs(_compiled(devices(slice_), True, jnp.bfloat16, along, batch=32, length=256).as_text())
    weights = LAYERS * (4 * WIDTH * WIDTH + 2 * WIDTH * INNER)
    gathered = sum(counted.collectives.get(kind, (0, 0))[1] for kind in ("all-gather", "collective-permute"))
    # Forwards and backwards, in bfloat16; a ring of permutes sends three quarters of it.
    assert 0.7 * 2 * weights * 2 < gathered < 1.6 * 2 * weights * 2
    assert counted.hbm_bytes > 0


TINY = ["--gin_file=models/tiny.gin", "--gin.BATCH_SIZE=8", "--gin.INPUT_LENGTH=64", "--gin.TARGET_LENGTH=16"]


@needs_libtpu
def test_the_verb_prints_both_steps(capfd):
    assert runs.here(["aot", "--topology=v5e:2x2", *TINY, "--json"]) == 0
    captured = capfd.readouterr()
    rows = [json.loads(line) for line in captured.out.splitlines()]
    assert [row["what"] for row in rows] == ["train_step", "generate"]
    assert captured.err == ""
    for row in rows:
        assert row["fits"] and row["mesh"] == "4x1" and row["uncounted_loops"] == 0
        assert 0 < row["utilisation_estimate"] < 1
        assert row["roofline_seconds"] >= max(row["compute_seconds"], row["hbm_seconds"])
        assert 0 < row["argument_bytes"] <= row["peak_bytes"] < row["hbm_capacity_bytes"]


@needs_libtpu
def test_the_sweep_prints_the_best_first(capfd):
    more = ["--sweep", "--gin.SWEEP_BATCH_SIZES=[8]", "--gin.SWEEP_REMAT_POLICIES=['none', 'full']", "--mesh=2x2"]
    more += ["--gin.SWEEP_RULES=['data', 'model']"]
    assert runs.here(["aot", "--topology=v5e:2x2", *TINY, *more]) == 0
    captured = capfd.readouterr()
    assert "[aot] 2/2 2x2 model full batch 8: " in captured.err
    lines = [line.split() for line in captured.out.splitlines() if line.startswith("2x2")]
    utilisations = [float(line[4].rstrip("%")) for line in lines]
    assert len(lines) == 2
    assert utilisations == sorted(utilisations, reverse=True)


@needs_libtpu
def test_a_step_that_does_not_fit():
    slice_ = topology("v5e:2x2")
    sharding_ = NamedSharding(Mesh(np.array(devices(slice_)), ("data",)), PartitionSpec())
    x = jax.ShapeDtypeStruct((3 * GIB,), jnp.float32, sharding=sharding_)
    with pytest.raises(DoesNotFit) as told:
        measure(lambda: jax.jit(lambda x: (x[::-1] * 2, x[::-1] + 1)).lower(x), slice_, 1.0)
    assert told.value.peak_bytes and told.value.peak_bytes > 16 * GIB
