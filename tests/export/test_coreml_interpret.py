import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("coremltools")

from afm_mlx.errors import ExportError
from afm_mlx.export.coreml.interpret import Functions
from afm_mlx.export.coreml.operations import CONSTANT_OPERATIONS, OPERATIONS
from afm_mlx.export.coreml.package import Package, import_coremltools, save

pytestmark = pytest.mark.filterwarnings("default")  # coremltools has its own


@pytest.fixture
def package(tmp_path):
    """Writes a function of x [1, 4, 1, 2] float16, given what it does with coremltools' builder."""

    def write(body, *, remembers=False) -> Package:
        coremltools = import_coremltools()
        from coremltools.converters.mil import Builder
        from coremltools.converters.mil.mil import Function, Program, types

        inputs = {"x": Builder.TensorSpec((1, 4, 1, 2), types.fp16)}
        if remembers:
            inputs["memory"] = Builder.StateTensorSpec((3, 4), types.fp16)
        with Function(inputs, opset_version=coremltools.target.iOS18) as function:
            found = body(Builder, function.inputs["x"], function.inputs.get("memory"))
            function.set_outputs([found])
        program = Program()
        program.add_function("main", function)
        save(program, tmp_path / "small.mlpackage", lambda specification: None)
        return Package(tmp_path / "small.mlpackage")

    return write


def computed(package, x, *, rounds=False, state=None):
    functions = Functions(package, rounds=rounds)
    state = functions.new_state("main") if state is None else state
    (found,) = functions.call("main", state, x=np.asarray(x, np.float32)).values()
    return found


X = np.array([[1.5, -2.0], [0.25, 3.0], [-4.0, 0.5], [2.0, 1.0]], np.float32).reshape(1, 4, 1, 2)


def test_a_convolution_of_looked_up_weights_is_a_product(package):
    from coremltools.converters.mil.mil import types

    small = types.nptype_from_builtin(types.string_to_builtin("uint2"))
    ids = np.array([[0, 1, 2, 3], [3, 3, 0, 1], [1, 1, 1, 1], [2, 0, 2, 0]], np.uint8)
    tables = np.array([[-1, 0, 0.5, 2], [10, 20, 30, 40]], np.float16)

    def body(mb, x, memory):
        weight = mb.constexpr_lut_to_dense(
            indices=ids.reshape(4, 4, 1, 1).view(small), lut=tables.reshape(2, 1, 1, 1, 4, 1)
        )
        return mb.conv(x=x, weight=weight, pad_type="valid")

    weight = np.array([[-1, 0, 0.5, 2], [2, 2, -1, 0], [20, 20, 20, 20], [30, 10, 30, 10]])
    assert np.array_equal(computed(package(body), X)[0, :, 0], weight @ X[0, :, 0])


def test_integers_are_multiplied_by_the_scale_of_their_row():
    given = {
        "data": np.array([[1, -2], [3, 127]], np.int8).reshape(2, 2, 1, 1),
        "scale": np.array([0.5, 2], np.float16).reshape(2, 1, 1, 1),
    }
    found = CONSTANT_OPERATIONS["constexpr_blockwise_shift_scale"](given)
    assert found[:, :, 0, 0].tolist() == [[0.5, -1.0], [6.0, 254.0]]


def test_a_layer_norm_of_a_vector_and_its_negative_is_a_root_mean_square_norm():
    x = np.array([3.0, -4.0, 0.0, 12.0])
    both = np.concatenate([x, -x])
    found = OPERATIONS["layer_norm"]({"x": both, "axes": np.array([0]), "epsilon": 1e-5})
    assert np.allclose(found[:4], x / np.sqrt(np.mean(x**2) + 1e-5))


def test_what_is_written_to_a_state_stays_and_is_read_again(package):
    def body(mb, x, memory):
        held = mb.read_state(input=memory)
        row = mb.slice_by_size(x=mb.reshape(x=x, shape=[2, 4]), begin=[0, 0], size=[1, 4])
        new = mb.slice_update(x=held, update=row, begin=[1, 0], end=[2, 4])
        new = mb.coreml_update_state(state=memory, value=new)
        return mb.mul(x=new, y=np.float16(2))

    found = package(body, remembers=True)
    state = Functions(found, rounds=False).new_state("main")
    assert np.array_equal(computed(found, X, state=state)[1], 2 * X.ravel()[:4])
    assert np.array_equal(state["memory"], [[0] * 4, X.ravel()[:4], [0] * 4])


def test_what_was_read_before_a_write_stays_as_it_was(package):
    # A lost write is one of coremltools' traps, so the interpreter must not hide it.
    def body(mb, x, memory):
        old = mb.read_state(input=memory)
        row = mb.slice_by_size(x=mb.reshape(x=x, shape=[2, 4]), begin=[0, 0], size=[1, 4])
        new = mb.slice_update(x=old, update=row, begin=[1, 0], end=[2, 4])
        new = mb.coreml_update_state(state=memory, value=new)
        again = mb.slice_update(x=old, update=row, begin=[2, 0], end=[3, 4])
        again = mb.coreml_update_state(state=memory, value=again)
        return mb.sub(x=new, y=again)

    row = X.ravel()[:4]
    found = package(body, remembers=True)
    state = Functions(found, rounds=False).new_state("main")
    assert np.array_equal(computed(found, X, state=state), [[0] * 4, row, -row])
    assert np.array_equal(state["memory"], [[0] * 4, [0] * 4, row])


def test_an_operation_that_is_none_of_ours_is_refused(package):
    with pytest.raises(ExportError, match=r"has an operation tanh, which is none of ours$"):
        computed(package(lambda mb, x, memory: mb.tanh(x=x)), X)


def test_a_parameter_that_is_none_of_ours_is_refused(package):
    def body(mb, x, memory):
        weight = np.ones((4, 2, 1, 1), np.float16)
        return mb.conv(x=x, weight=weight, pad_type="valid", groups=2)

    with pytest.raises(ExportError, match="parameter groups is 2, which none of ours is"):
        computed(package(body), X)


def test_a_type_of_numbers_that_is_none_of_ours_is_refused(package):
    def body(mb, x, memory):
        return mb.add(x=mb.cast(x=x, dtype="fp32"), y=np.ones(12, np.float32).reshape(3, 4, 1, 1))

    with pytest.raises(ExportError, match=r"none of ours|none that we write"):
        computed(package(body), X)


def test_a_result_that_float16_cannot_hold_is_an_error_where_it_is_rounded(package):
    found = package(lambda mb, x, memory: mb.mul(x=x, y=x))
    large = np.full_like(X, 300)
    assert computed(found, large).max() == 90_000
    with pytest.raises(ExportError, match=r"mul \w+ has 90,000, which float16 cannot hold"):
        computed(found, large, rounds=True)


def test_results_are_rounded_to_float16(package):
    found = package(lambda mb, x, memory: mb.add(x=x, y=np.float16(2_048)))
    assert computed(found, np.ones_like(X)).max() == 2_049
    assert computed(found, np.ones_like(X), rounds=True).max() == 2_048


def test_an_input_of_another_size_is_refused(package):
    found = package(lambda mb, x, memory: mb.mul(x=x, y=x))
    with pytest.raises(ExportError, match=r"input x is \(1, 4, 1, 3\), must be \(1, 4, 1, 2\)"):
        computed(found, np.zeros((1, 4, 1, 3)))


@pytest.mark.parametrize("row", [-1, 3])
def test_a_row_that_is_not_there_is_an_error(row):
    given = {"x": np.eye(3), "indices": np.array([0, row]), "axis": 0}
    with pytest.raises(ExportError, match="is looked up among 3"):
        OPERATIONS["gather"](given)


def test_a_place_outside_of_an_array_is_an_error():
    given = {"x": np.zeros((2, 4)), "update": np.ones((1, 2)), "begin": [0, 3], "end": [1, 5]}
    with pytest.raises(ExportError, match="3 to 5 is taken of 4"):
        OPERATIONS["slice_update"](given)


def test_no_function_of_that_name(package):
    found = package(lambda mb, x, memory: mb.mul(x=x, y=x))
    with pytest.raises(ExportError, match="has no function 'decode'"):
        Functions(found, rounds=False).call("decode", {})


def test_a_damaged_weight_file_is_named(package):
    def body(mb, x, memory):
        return mb.conv(x=x, weight=np.ones((4, 4, 1, 1), np.float16), pad_type="valid")

    found = package(body)
    held = found.weight_file.read_bytes()
    found.weight_file.write_bytes(held[:64] + bytes(64) + held[128:])
    with pytest.raises(ExportError, match=r"weight\.bin is damaged at byte 64"):
        computed(Package(found.folder), X)


def test_a_folder_that_is_no_package_is_refused(tmp_path: Path):
    (tmp_path / "Manifest.json").write_text(json.dumps({}))
    with pytest.raises(ExportError, match="is no Core ML package"):
        Package(tmp_path)
