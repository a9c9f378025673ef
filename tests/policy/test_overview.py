"""The table of parameters: counts and bytes, whole and per device."""

import jax
import tiny_models

from cipo_jax.policy import model, sharding
from cipo_jax.policy.overview import parameter_table


def test_the_table_says_what_lies_where() -> None:
    config = tiny_models.TINY_CONFIG
    mesh = sharding.make_mesh(2, 2, 2)
    shardings = model.param_shardings(config, mesh)
    params = jax.device_put(tiny_models.tiny_params(config), shardings)
    table = parameter_table(params)
    lines = {line.split("|")[1].strip(): line for line in table.splitlines() if "|" in line}
    cells = [cell.strip() for cell in lines["layers/q"].split("|")[2:-1]]
    # [3, 32, 4, 16] float32, the second dimension over fsdp, the third over tensor.
    assert cells == ["(3, 32, 4, 16)", "float32", "6,144", "24,576", "6,144", "-, fsdp, tensor, -"]
    assert len(lines) == 1 + len(jax.tree.leaves(params))

    device = mesh.devices.flat[0]
    held = sum(
        shard.data.nbytes
        for x in jax.tree.leaves(params)
        for shard in x.addressable_shards
        if shard.device == device
    )
    count = sum(x.size for x in jax.tree.leaves(params))
    assert table.splitlines()[-1] == (
        f"{count:,} parameters, {4 * count:,} bytes, {held:,} bytes per device"
    )
    # The same before anything is allocated.
    shapes = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s),
        model.abstract_params(config),
        shardings,
    )
    assert parameter_table(shapes) == table
