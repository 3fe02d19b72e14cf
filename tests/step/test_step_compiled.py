"""What the compiled training step on eight devices sends, and to whom."""

import re

from test_solver import make_solver
from test_step import CONFIG, batch_of, contrast_of, memories_of, memory_on, reader_of, small

from cd_jax.memory.index.nearest import BLOCK


def test_the_step_asks_no_host_and_sends_no_keys():
    """Of the memory only candidates go from device to device: each knows a part of the keys, and asks for no more."""
    solver, keys = make_solver(CONFIG, 8, 1, 8), small()[2]
    memory = memory_on(solver.mesh, keys)
    assert memory.store.keys.vectors.shape == (8 * BLOCK, CONFIG.emb_dim)
    batch = solver.partitioner.shard_batch(batch_of())
    read = {"read": reader_of(memory, contrast_of()), "memory": memories_of(solver, memory)}
    with solver._on_mesh():
        lowered = solver._train_step.lower(solver.abstract_state(), batch, 0, **read)
    compiled = lowered.compile().as_text()
    assert "callback" not in compiled and "outfeed" not in compiled
    gathered = [
        tuple(map(int, shape.split(",")))
        for shapes in re.findall(r"= (\S+(?: \S+\))?) all-gather(?:-start)?\(", compiled)
        for shape in re.findall(r"\w+\[([\d,]+)\]", shapes)
    ]
    # Rows and scores: of two queries for each of eight examples, the candidates of eight devices.
    assert gathered.count((16, 8 * memory.count)) == 2
    assert all(size < 8 * BLOCK for shape in gathered for size in shape)
