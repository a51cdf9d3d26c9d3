"""Official checkpoints in and out: every key of the published state dicts, there and back, and starts from other networks."""

from __future__ import annotations

import functools

import aios_golden as golden
import jax
import numpy as np
import pytest
from flax import nnx

from annyfit_jax.records.torch_files import CheckpointError, read_state_dict, write_state_dict
from annyfit_jax.regressors.aios import aios_checkpoint, aios_model
from annyfit_jax.regressors.aios.aios_config import ANNY, AiosConfig, naive, tiny

TABLES = [("", AiosConfig()), ("_naive", naive())]
PUBLISHED = pytest.mark.parametrize(("suffix", "config"), TABLES, ids=["aios", "naive"])


@functools.cache
def small() -> tuple[AiosConfig, nnx.State]:
    """A network with values that tell all numbers apart."""
    config = tiny()
    rng = np.random.default_rng(0)

    def value(path, variable):
        return path, variable.replace(jax.numpy.asarray(rng.normal(size=variable.shape), "float32"))

    return config, nnx.from_flat_state(
        [value(*item) for item in nnx.to_flat_state(aios_model.graph_and_shapes(config)[1])]
    )


def equal(a: nnx.State, b: nnx.State) -> bool:
    return all(
        p == q and np.array_equal(x.get_value(), y.get_value())
        for (p, x), (q, y) in zip(nnx.to_flat_state(a), nnx.to_flat_state(b), strict=True)
    )


@PUBLISHED
def test_every_published_key_has_a_place(suffix, config):
    """Names and shapes of our variables cover the official state dict, shared tensors under all their names, and no more."""
    keys, shared = golden.table(f"state_dict_keys{suffix}"), golden.table(f"state_dict_aliases{suffix}")
    named = {}
    for path, variable in nnx.to_flat_state(aios_model.graph_and_shapes(config)[1]):
        name = aios_checkpoint.torch_name(path)
        shape = aios_checkpoint.to_theirs(np.broadcast_to(np.float32(0), variable.shape), str(path[-1])).shape
        names = aios_checkpoint.aliases(name)
        assert names[0] == name
        assert all(shared[alias] == name for alias in names[1:])
        for alias in names:
            assert alias not in named, alias
            named[alias] = list(shape)
    assert named == keys
    assert len(keys) == {"": 1227, "_naive": 991}[suffix]
    assert len(keys) - len(shared) == {"": 927, "_naive": 835}[suffix]


def test_there_and_back(tmp_path):
    """Export, through a file, import: the same numbers; and what is no part of the network is listed."""
    config, variables = small()
    arrays = aios_checkpoint.to_torch(config, variables)
    extra = {
        "body_model.shapedirs": np.ones((3, 2), np.float32),
        "backbone.0.body.bn1.num_batches_tracked": np.array(7),
    }
    write_state_dict(tmp_path / "x.pth", {**arrays, **extra}, "model")
    back, unused = aios_checkpoint.from_torch(config, read_state_dict(tmp_path / "x.pth"))
    assert equal(back, variables)
    assert unused == tuple(sorted(extra))


def test_layouts_differ_between_the_libraries():
    """A linear kernel is transposed, a convolution's axes are permuted; nothing else is."""
    config, variables = small()
    arrays = aios_checkpoint.to_torch(config, variables)
    flat = {".".join(map(str, path)): np.asarray(x.get_value()) for path, x in nnx.to_flat_state(variables)}
    np.testing.assert_array_equal(arrays["transformer.enc_output.weight"], flat["two_stage.project.kernel"].T)
    np.testing.assert_array_equal(
        arrays["backbone.0.body.conv1.weight"], flat["backbone.stem.kernel"].transpose(3, 2, 0, 1)
    )
    np.testing.assert_array_equal(arrays["transformer.level_embed"], flat["level_embedding"])
    assert arrays["pose_hw_embed.3.layers.1.bias"] is arrays["transformer.decoder.pose_hw_embed.0.layers.1.bias"]


def test_a_checkpoint_that_does_not_fit_is_refused():
    config, variables = small()
    arrays = aios_checkpoint.to_torch(config, variables)
    gone = {key: value for key, value in arrays.items() if key != "transformer.enc_output.bias"}
    with pytest.raises(CheckpointError, match=r"transformer\.enc_output\.bias is absent"):
        aios_checkpoint.from_torch(config, gone)
    with pytest.raises(CheckpointError, match=r"level_embed has shape \(2, 64\)"):
        aios_checkpoint.from_torch(config, {**arrays, "transformer.level_embed": np.zeros((2, 64), np.float32)})
    name = "transformer.decoder.bbox_embed.2.layers.1.bias"
    with pytest.raises(CheckpointError, match="one tensor of the network, but differ"):
        aios_checkpoint.from_torch(config, {**arrays, name: arrays[name] + 1})
    with pytest.raises(CheckpointError, match="SMPL-X heads"):
        aios_checkpoint.from_torch(tiny(body=ANNY), arrays)


def test_starts_from_other_networks():
    """A bare ResNet fills the backbone; a network of the same names all that has the same shape."""
    config, variables = small()
    arrays = aios_checkpoint.to_torch(config, variables)
    prefix = "backbone.0.body."
    resnet = {key.removeprefix(prefix): 2 * value for key, value in arrays.items() if key.startswith(prefix)}
    result, taken, unused = aios_checkpoint.start_from(
        variables, {**resnet, "fc.weight": np.zeros((10, 4), np.float32)}
    )
    assert set(taken) == {prefix + key for key in resnet}
    assert unused == (f"{prefix}fc.weight",)
    doubled = aios_checkpoint.to_torch(config, result)
    for key, value in arrays.items():
        np.testing.assert_array_equal(doubled[key], 2 * value if key.startswith(prefix) else value, err_msg=key)

    other = {**arrays, "class_embed.0.weight": np.zeros((91, 64), np.float32)}  # ED-Pose has other classes
    result, taken, unused = aios_checkpoint.start_from(variables, other)
    assert equal(result, variables)
    assert "class_embed.0.weight" in unused
    assert "class_embed.0.weight" not in taken
    with pytest.raises(CheckpointError, match="no tensor"):
        aios_checkpoint.start_from(variables, {"something": np.zeros(3)})
