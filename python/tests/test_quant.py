"""Codes and scales of published vectors, and of every operand of every recipe, through NumPy and DLPack."""

import itertools

import nibble
import numpy as np
import pytest

E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)
E2M1_CODES = np.concatenate([E2M1, -E2M1])


def e2m1(**settings):
    return nibble.QuantSpec(element="e2m1", **settings)


def matrix(rows=128, cols=256, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, cols)).astype(np.float32)


def e4m3(code):
    """The value of an unsigned E4M3 code, from the format's definition."""
    exponent, mantissa = code >> 3, code & 7
    return mantissa * 2.0**-9 if exponent == 0 else (8 + mantissa) * 2.0 ** (exponent - 10)


def test_the_vector_of_wang_et_al_s_released_test():
    x = np.array([0.001, 0.048, 0.0997, 0.1503, 0.2002, 0.2497, 0.2974, 0.30699, 0.4001], dtype=np.float32)
    q = nibble.quantize(x, e2m1(granularity="tensor", scale="absmax-pow2", rounding="nearest-up", bf16_input=True))
    assert q.scales.tolist() == [[1 / 8]]
    assert q.dequantize().tolist() == [0, 0.0625, 0.125, 0.125, 0.1875, 0.25, 0.25, 0.25, 0.375]


def test_the_even_column_is_the_low_nibble():
    q = nibble.quantize(np.array([[0.5, -6, 1.5, 0]], dtype=np.float32), e2m1())
    assert q.codes.tolist() == [[0xF1, 0x03]]
    assert q.codes.dtype == np.uint8


def test_all_codes_under_all_e8m0_scales_come_back():
    exponents = np.arange(-120, 126)
    x = (E2M1_CODES[None, :] * np.exp2(exponents)[:, None]).astype(np.float32)
    q = nibble.quantize(x, e2m1(granularity=16, scale="ocp-floor"))
    np.testing.assert_array_equal(q.dequantize(), x)
    np.testing.assert_array_equal(q.scales[:, 0], exponents + 127)
    assert q.scale_format == "e8m0"


def test_all_codes_under_all_e4m3_scales_come_back():
    scales = np.array([e4m3(code) for code in range(1, 0x7F)])
    x = (E2M1_CODES[None, :] * scales[:, None]).astype(np.float32)
    q = nibble.quantize(x, e2m1(granularity=16, scale="nvfp4"))
    assert q.tensor_scale == 1
    np.testing.assert_array_equal(q.scales[:, 0], np.arange(1, 0x7F))
    np.testing.assert_array_equal(q.dequantize(), x)
    assert q.spec.stored_bits(16) == 4.5


@pytest.mark.parametrize(
    ("rounding", "want"),
    [
        ("nearest-even", [6, 0, 1, 1, 2, 2, 4, 4]),
        ("nearest-up", [6, 0.5, 1, 1.5, 2, 3, 4, 6]),
        ("nearest-zero", [6, 0, 0.5, 1, 1.5, 2, 3, 4]),
    ],
)
def test_each_tie_rule_treats_the_midpoints_as_its_table_says(rounding, want):
    x = np.array([6, 0.25, 0.75, 1.25, 1.75, 2.5, 3.5, 5], dtype=np.float32)
    assert nibble.quantize(x, e2m1(rounding=rounding)).dequantize().tolist() == want


def test_values_follow_from_codes_and_scales_by_the_documented_formula():
    x = matrix(32, 64)
    q = nibble.quantize(x, e2m1(granularity=16, scale="nvfp4"))
    codes = np.stack([q.codes & 15, q.codes >> 4], axis=-1).reshape(32, 64)
    scales = np.array([e4m3(s) for s in q.scales.ravel()], dtype=np.float32).reshape(q.scales.shape)
    values = E2M1_CODES[codes] * np.repeat(scales, 16, axis=1) * np.float32(q.tensor_scale)
    np.testing.assert_allclose(q.dequantize(), values, rtol=1e-6)


def test_stochastic_rounding_is_unbiased_and_a_function_of_the_seed():
    x = np.full((1, 1 << 16), 2.3, dtype=np.float32)
    x[0, 0] = 6  # the scale is one
    spec = e2m1(rounding="stochastic")
    a = nibble.quantize(x, spec, seed=1)
    assert set(np.unique(a.dequantize()[0, 1:])) == {2, 3}
    assert abs(a.dequantize()[0, 1:].mean() - 2.3) < 5 * np.sqrt(0.21 / x.size)
    np.testing.assert_array_equal(a.codes, nibble.quantize(x, spec, seed=1).codes)
    for other in ({"seed": 2}, {"seed": 1, "step": 1}, {"seed": 1, "layer": 1}):
        assert (a.codes != nibble.quantize(x, spec, **other).codes).any()


def every_operand():
    for name in nibble.recipes():
        recipe = nibble.recipe(name)
        for stage in range(recipe.stages):
            linear = recipe.resolve("layers.1.mlp.down", 1, 12, stage)
            yield from (linear.fprop.x, linear.fprop.w, linear.dgrad.dy, linear.dgrad.w, linear.wgrad.dy, linear.wgrad.x)


def test_every_operand_of_every_recipe_is_spelt_as_it_is_read():
    operands = list(every_operand())
    assert len(operands) > 100
    for spec in operands:
        assert nibble.QuantSpec(**spec.as_dict()) == spec, repr(spec)
        assert eval(repr(spec), {"QuantSpec": nibble.QuantSpec}) == spec


def test_every_operand_of_every_recipe_quantises_and_comes_back():
    x = matrix()
    quantised = 0
    for spec in every_operand():
        if spec.source == "fprop":
            continue
        q = nibble.quantize(x, spec, seed=5, reference=x if spec.rounding == "reference" else None)
        back = q.dequantize(original=True)
        assert back.shape == x.shape
        assert q.dequantize().shape == (x.T.shape if spec.transposed else x.shape)
        error = float(((back - x) ** 2).sum() / (x**2).sum())
        assert error < 0.1, repr(spec)
        # The figure of the library, which counts in the basis of the codes: a rotation keeps lengths.
        assert q.quality(x)["relative_mse"] == pytest.approx(error, rel=1e-3, abs=1e-9), repr(spec)
        quantised += 1
    assert quantised > 100


def test_a_sparse_residual_and_the_mask_are_arrays():
    x = matrix(64, 256)
    x[3, 5] = 100
    q = nibble.quantize(x, e2m1(clamp={"alpha": 0.99, "residual": "sparse"}))
    begin, columns, values = q.residual
    assert len(begin) == 65 and begin[-1] == len(columns) == len(values) > 0
    row = slice(begin[3], begin[4])
    assert 5 in columns[row]
    assert abs(q.dequantize()[3, 5] - 100) < 0.5  # what is left is the rounding of the bound
    assert nibble.quantize(x, e2m1()).residual is None
    masked = nibble.quantize(x, e2m1(granularity=32, scale="quest-floor", trust_mask=True))
    bits = np.unpackbits(masked.mask, axis=1, bitorder="little")
    assert bits.shape == x.shape and 0.5 < bits.mean() < 1


def test_codes_and_scales_are_views():
    q = nibble.quantize(matrix(), e2m1())
    before = q.dequantize()
    q.scales[:] *= 2
    np.testing.assert_array_equal(q.dequantize(), 2 * before)
    q.codes[0] = 0
    assert not q.dequantize()[0].any()
    codes = q.codes
    del q
    assert codes[1].any()  # the array keeps the memory


def test_the_input_is_read_in_place_and_left_alone():
    x = matrix()
    x.setflags(write=False)
    before = x.copy()
    nibble.quantize(x, e2m1(hadamard={"group": 16}))
    np.testing.assert_array_equal(x, before)


def test_more_dimensions_number_the_rows():
    x = matrix(24, 32)
    q = nibble.quantize(x.reshape(2, 3, 4, 32), e2m1(granularity=16, scale="nvfp4"))
    assert q.shape == (24, 32)
    assert q.dequantize().shape == (2, 3, 4, 32)
    turned = nibble.QuantSpec(operand="wgrad.x", element="e4m3", granularity=8)
    back = nibble.quantize(x.reshape(2, 12, 32), turned).dequantize(original=True)
    assert back.shape == (2, 12, 32)
    np.testing.assert_allclose(back.reshape(24, 32), x, rtol=0.07, atol=1e-2)


class Bf16:
    """A BF16 array as DLPack offers it, from one that nibble made; NumPy has none."""

    def __init__(self, x):
        self.x = nibble.quantize(x, nibble.QuantSpec(element="bf16"))

    def __dlpack__(self, **settings):
        return self.x.codes.__dlpack__(**settings)

    def __dlpack_device__(self):
        return self.x.codes.__dlpack_device__()


def test_bfloat16_goes_in_and_out_by_dlpack():
    x = matrix()
    rounded = nibble.quantize(x, nibble.QuantSpec(element="bf16")).dequantize()
    assert (rounded != x).any()
    np.testing.assert_allclose(rounded, x, rtol=2**-8)
    spec = e2m1(granularity=16, scale="nvfp4")
    a, b = nibble.quantize(Bf16(x), spec), nibble.quantize(rounded, spec)
    np.testing.assert_array_equal(a.codes, b.codes)
    np.testing.assert_array_equal(a.scales, b.scales)
    out = nibble.quantize(x, spec).dequantize("bfloat16")
    again = nibble.quantize(out, nibble.QuantSpec(element="f32"))
    np.testing.assert_allclose(again.dequantize(), nibble.quantize(x, spec).dequantize(), rtol=2**-8)


def test_tensors_of_pytorch_go_in_and_out():
    torch = pytest.importorskip("torch")
    x = torch.randn(64, 128, generator=torch.Generator().manual_seed(1))
    spec = e2m1(granularity=16, scale="nvfp4")
    for given in (x, x.bfloat16()):
        q = nibble.quantize(given, spec)
        want = nibble.quantize(given.float().numpy(), spec)
        np.testing.assert_array_equal(q.codes, want.codes)
        back = torch.from_dlpack(q.dequantize("bfloat16"))
        assert back.dtype == torch.bfloat16
        np.testing.assert_array_equal(back.float().numpy(), torch.from_numpy(want.dequantize()).bfloat16().float().numpy())
        assert torch.from_dlpack(q.codes).shape == (64, 64)


def test_many_threads_of_python_get_the_same_codes():
    from concurrent.futures import ThreadPoolExecutor

    x = matrix(256, 512)
    spec = nibble.recipe("quartet2").wgrad.dy
    want = nibble.quantize(x, spec, seed=9).codes
    with ThreadPoolExecutor(4) as pool:
        for q in pool.map(lambda _: nibble.quantize(x, spec, seed=9), range(8)):
            np.testing.assert_array_equal(q.codes, want)


MISTAKES = [
    (lambda x: nibble.quantize(x.astype(np.float64), e2m1()), "x is float64, must be float32 or bfloat16"),
    (lambda x: nibble.quantize(x.T, e2m1()), "x is not contiguous"),
    (lambda x: nibble.quantize(x[:0], e2m1()), "x is empty"),
    (lambda x: nibble.QuantSpec(element="e2m2"), "'e2m2' is not one of f32, bf16, e2m1"),
    (lambda x: nibble.QuantSpec(elemnt="e2m1"), "did you mean 'element'?"),
    (lambda x: nibble.QuantSpec(element="e4m3", rounding="stochastic"), "e4m3 elements round nearest-even"),
    (lambda x: nibble.QuantSpec(operand="fprop.q"), "there is no operand 'fprop.q'"),
    (lambda x: nibble.QuantSpec(element=None), "element is None, must be"),
    (lambda x: nibble.quantize(x, e2m1(hadamard={"group": 256})), "choose a group that divides them"),
    (lambda x: nibble.quantize(x, e2m1(), layer=1 << 20), "layer is 1048576"),
    (lambda x: nibble.quantize(x, nibble.QuantSpec(operand="wgrad.x", source="fprop")), "quantise fprop.x"),
    (lambda x: nibble.quantize(x, e2m1(), reference=x), "goes with rounding"),
    (lambda x: nibble.quantize(x, e2m1()).dequantize("float16"), "must be float32 or bfloat16"),
    (lambda x: nibble.quantize(x, e2m1()).quality(x[:2]), "pass the array that was quantised"),
    (lambda x: nibble.recipe("quartett"), "did you mean 'quartet'?"),
]


@pytest.mark.parametrize(("mistake", "sentence"), MISTAKES, ids=itertools.count())
def test_a_mistake_is_a_sentence(mistake, sentence):
    with pytest.raises(nibble.UserError) as caught:
        mistake(matrix(64, 64))
    assert isinstance(caught.value, ValueError)
    assert sentence in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_is_no_array_or_spec_is_a_type_error():
    with pytest.raises(TypeError):
        nibble.quantize([1.0, 2.0], e2m1())
    with pytest.raises(TypeError):
        nibble.quantize(matrix(), "nvfp4")
