"""Each ONNX operator that is read means what onnxruntime does with it."""

from __future__ import annotations

import numpy as np
import pytest

from mlsysopt.graph.errors import ImportFailed
from mlsysopt.graph.importers.onnx import from_onnx
from tests.graph.importers.onnx_checks import agrees, parsed

# Inputs by their first letter: x, y any reals, p positive reals, i integers of both signs, j positive integers,
# k places 0..2, b truth values, q bytes.
CASES: dict[str, str] = {
    # arithmetic
    "add_broadcast": "(float[N, 3] x, float[3] y) => (float z) { z = Add(x, y) }",
    "sub_mul": "(float[N, 3] x, float[N, 1] y) => (float z) { a = Sub(x, y) z = Mul(a, y) }",
    "div": "(float[N, 3] x, float[N, 3] p) => (float z) { z = Div(x, p) }",
    "div_of_integers_truncates": """(int64[8] i, int64[8] j) => (int64 z, int64 w) { z = Div(i, j) n = Neg(j)
        w = Div(i, n) }""",
    "mod_takes_sign_of_divisor": """(int64[8] i, int64[8] j) => (int64 z, int64 w) { z = Mod(i, j) n = Neg(j)
        w = Mod(i, n) }""",
    "fmod_takes_sign_of_dividend": "(float[8] x, float[8] p) => (float z) { z = Mod<fmod = 1>(x, p) }",
    "fmod_of_integers": "(int32[8] i, int32[8] j) => (int32 z) { z = Mod<fmod = 1>(i, j) }",
    "pow": "(float[8] p) => (float z) { two = Constant<value = float {2.5}>() z = Pow(p, two) }",
    "pow_mixed_types": "(float[8] x) => (float z) { two = Constant<value = int64 {2}>() z = Pow(x, two) }",
    "max_min_of_three": """(float[N, 3] x, float[3] y, float[1] p) => (float z, float w) { z = Max(x, y, p)
        w = Min(x, y, p) }""",
    "sum_mean": """(float[N, 3] x, float[3] y, float[1] p) => (float z, float w) { z = Sum(x, y, p)
        w = Mean(x, y, p) }""",
    "unary": """(float[N, 3] x, float[N, 3] p) => (float a, float c, float d, float e, float f, float g, float h) {
        a = Exp(x) c = Log(p) d = Sqrt(p) e = Reciprocal(p) f = Erf(x) g = Sin(x) h = Cos(x) }""",
    "rounding": """(float[9] x) => (float a, float c, float d, float e, float f) {
        two = Constant<value = float {2.0}>() t = Mul(x, two) r = Round(t) h = Div(r, two)
        a = Round(h) c = Floor(x) d = Ceil(x) e = Sign(x) f = Abs(x) }""",
    "hyperbolic": """(float[5] x) => (float a, float c, float d, float e) { a = Tanh(x) c = Sinh(x)
        d = Cosh(x) e = Tan(x) }""",
    "comparisons": """(float[N, 3] x, float[3] y) => (bool a, bool c, bool d, bool e, bool f) {
        a = Less(x, y) c = LessOrEqual(x, y) d = Greater(x, y) e = GreaterOrEqual(x, y)
        f = Equal(x, x) }""",
    "logic": """(bool[9] b, bool[9] bb) => (bool a, bool c, bool d, bool e) { a = And(b, bb)
        c = Or(b, bb) d = Xor(b, bb) e = Not(b) }""",
    "bitwise": """(int32[9] i, int32[9] j) => (int32 a, int32 c, int32 d, int32 e) {
        a = BitwiseAnd(i, j) c = BitwiseOr(i, j) d = BitwiseXor(i, j) e = BitwiseNot(i) }""",
    "where": "(bool[N, 1] b, float[N, 3] x, float[3] y) => (float z) { z = Where(b, x, y) }",
    "cast": """(float[9] x, int64[9] i) => (int32 a, bool c, float d, double e) {
        ten = Constant<value = float {10.0}>() t = Mul(x, ten) a = Cast<to = 6>(t)
        c = Cast<to = 9>(i) d = Cast<to = 1>(i) f = Cast<to = 11>(i) e = CastLike(x, f) }""",
    "is_special": """(float[6] x) => (bool a, bool c) { z = Constant<value = float {0.0}>() q = Div(x, z)
        a = IsInf(q) s = Sub(q, q) c = IsNaN(s) }""",
    "is_positive_infinity": """(float[6] x) => (bool a) { z = Constant<value = float {0.0}>() q = Div(x, z)
        a = IsInf<detect_negative = 0>(q) }""",
    # activations
    "clip": """(float[9] x) => (float a, float c) { l = Constant<value = float {-0.5}>()
        h = Constant<value = float {0.5}>() a = Clip(x, l, h) c = Clip(x, l) }""",
    "clip_by_data": "(float[9] x, float y) => (float a) { a = Clip(x, y) }",
    "activations": """(float[N, 3] x) => (float a, float c, float d, float e, float f, float g, float h) {
        a = Relu(x) c = LeakyRelu<alpha = 0.1>(x) d = Elu<alpha = 0.7>(x) e = Selu(x)
        f = Celu<alpha = 1.3>(x) g = Softplus(x) h = Softsign(x) }""",
    "activations_2": """(float[N, 3] x, float[3] y) => (float a, float c, float d, float e, float f, float g) {
        a = HardSigmoid(x) c = HardSwish(x) d = Mish(x) e = ThresholdedRelu<alpha = 0.3>(x)
        f = PRelu(x, y) g = Sigmoid(x) }""",
    "hard_sigmoid_of_torch": "(float[9] x) => (float a) { a = HardSigmoid<alpha = 0.16666667, beta = 0.5>(x) }",
    "dropout": "(float[9] x) => (float a) { a = Dropout(x) }",
    # reductions
    "reduce": """(float[N, 3, 4] x) => (float a, float c, float d, float e) {
        ax = Constant<value = int64[2] {0, -1}>() a = ReduceSum(x, ax)
        c = ReduceMean<keepdims = 0>(x, ax) d = ReduceMax(x)
        e = ReduceMin<keepdims = 0>(x, ax) }""",
    "reduce_composed": """(float[N, 3, 4] x, float[N, 3, 4] p) => (
        float a, float c, float d, float e, float f, float g) {
        ax = Constant<value = int64[1] {1}>() a = ReduceL1(x, ax)
        c = ReduceL2<keepdims = 0>(x, ax) d = ReduceSumSquare(x, ax) e = ReduceLogSum(p, ax)
        f = ReduceLogSumExp<keepdims = 0>(x, ax) g = ReduceProd(x, ax) }""",
    "reduce_nothing": """(float[N, 3] x) => (float a) { ax = Constant<value = int64[0] {}>()
        a = ReduceSum<noop_with_empty_axes = 1>(x, ax) }""",
    "arg": """(float[N, 5] x) => (int64 a, int64 c) { a = ArgMax<axis = -1>(x)
        c = ArgMin<axis = 1, keepdims = 0>(x) }""",
    "arg_last": "(int64[7, 5] k) => (int64 a) { a = ArgMax<axis = 1, select_last_index = 1>(k) }",
    "cumsum": """(float[N, 5] x) => (float a, float c, float d) { ax = Constant<value = int64 {1}>()
        a = CumSum(x, ax) c = CumSum<exclusive = 1>(x, ax)
        d = CumSum<reverse = 1, exclusive = 1>(x, ax) }""",
    # contractions
    "matmul": "(float[N, 2, 3, 4] x, float[4, 5] y) => (float z) { z = MatMul(x, y) }",
    "matmul_vectors": """(float[4] x, float[N, 4, 5] y, float[5] p) => (float z, float w, float v) {
        z = MatMul(x, y) w = MatMul(y, p) v = MatMul(x, x) }""",
    "gemm": """(float[N, 4] x, float[5, 4] y, float[5] p) => (float z, float w, float v) {
        z = Gemm<transB = 1>(x, y, p) w = Gemm<transB = 1, alpha = 0.5, beta = 2.0>(x, y, p)
        v = Gemm<transA = 1>(y, y) }""",
    "einsum": """(float[N, 3, 4] x, float[N, 5, 4] y) => (float a, float c, float d) {
        a = Einsum<equation = "bij,bkj->bik">(x, y) c = Einsum<equation = "bij,bkj->ki">(x, y)
        d = Einsum<equation = "bij->ji">(x) }""",
    "conv": """(float[N, 4, H, 9] x, float[6, 2, 3, 3] y, float[6] p) => (float a, float c) {
        a = Conv<group = 2, pads = [1, 0, 2, 1], strides = [2, 1]>(x, y, p)
        c = Conv<group = 2, dilations = [1, 2]>(x, y) }""",
    "conv_1d_3d": """(float[N, 2, L] x, float[3, 2, 3] y, float[1, 2, 4, 4, 4] xx, float[2, 2, 2, 2, 2] yy)
        => (float a, float c) {
        a = Conv(x, y) c = Conv(xx, yy) }""",
    "conv_same": """(float[1, 2, 9, 8] x, float[3, 2, 3, 2] y) => (float a, float c, float d) {
        a = Conv<auto_pad = "SAME_UPPER", strides = [2, 3]>(x, y)
        c = Conv<auto_pad = "SAME_LOWER">(x, y) d = Conv<auto_pad = "VALID">(x, y) }""",
    "conv_same_symbolic": """(float[N, 2, H, W] x, float[3, 2, 3, 2] y) => (float a) {
        a = Conv<auto_pad = "SAME_UPPER">(x, y) }""",
    "conv_transpose": """(float[N, 4, H, 5] x, float[4, 3, 3, 3] y, float[6] p) => (float a, float c) {
        a = ConvTranspose<group = 2, strides = [2, 1], pads = [1, 0, 1, 1], output_padding = [1, 0]>(x, y, p)
        c = ConvTranspose<group = 2, dilations = [2, 1]>(x, y) }""",
    "conv_transpose_same": """(float[1, 4, 6, 5] x, float[4, 3, 3, 3] y) => (float a, float c) {
        a = ConvTranspose<strides = [2, 2], auto_pad = "SAME_UPPER">(x, y)
        c = ConvTranspose<strides = [2, 2], output_shape = [12, 10]>(x, y) }""",
    # pools
    "pool": """(float[N, 3, H, 9] x) => (float a, float c, float d, float e) {
        a = MaxPool<kernel_shape = [3, 2], strides = [2, 2], pads = [1, 0, 1, 1]>(x)
        c = AveragePool<kernel_shape = [2, 2]>(x)
        d = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], count_include_pad = 1>(x)
        e = AveragePool<kernel_shape = [3, 3], pads = [1, 1, 1, 1], strides = [2, 2]>(x) }""",
    "pool_ceil": """(float[1, 2, 8, 8] x) => (float a) {
        a = MaxPool<kernel_shape = [3, 3], strides = [2, 2], ceil_mode = 1>(x) }""",
    "pool_dilated": """(float[1, 2, 8, 8] x) => (float a) {
        a = MaxPool<kernel_shape = [2, 2], dilations = [2, 3]>(x) }""",
    "pool_same": """(float[1, 2, 7, 8] x) => (float a) {
        a = MaxPool<kernel_shape = [3, 3], strides = [2, 2], auto_pad = "SAME_UPPER">(x) }""",
    "pool_global": """(float[N, 3, H, W] x) => (float a, float c) { a = GlobalAveragePool(x)
        c = GlobalMaxPool(x) }""",
    # normalisation
    "softmax": """(float[N, 3, 4] x) => (float a, float c, float d) { a = Softmax(x)
        c = Softmax<axis = 1>(x) d = LogSoftmax(x) }""",
    "batch_norm": """(float[N, 3, H] x, float[3] y, float[3] yy, float[3] yyy, float[3] p) => (float a) {
        a = BatchNormalization<epsilon = 0.001>(x, y, yy, yyy, p) }""",
    "layer_norm": """(float[N, 3, 4] x, float[4] y, float[4] p, float[3, 4] yy) => (float a, float c, float d) {
        a = LayerNormalization(x, y, p) c = LayerNormalization<epsilon = 0.1>(x, y)
        d = LayerNormalization<axis = 1>(x, yy) }""",
    "instance_norm": """(float[N, 3, H, 4] x, float[3] y, float[3] p) => (float a) {
        a = InstanceNormalization(x, y, p) }""",
    "lrn": """(float[N, 7, 3, W] x) => (float a) {
        a = LRN<size = 5, alpha = 0.01, beta = 0.7, bias = 1.5>(x) }""",
    "lp_norm": """(float[N, 7] x) => (float a, float c) { a = LpNormalization(x)
        c = LpNormalization<p = 1, axis = 1>(x) }""",
    "mvn": "(float[N, 3, 4, 5] x) => (float a) { a = MeanVarianceNormalization(x) }",
    # movement
    "reshape": """(float[N, 6, 4] x) => (float a, float c, float d) {
        s = Constant<value = int64[3] {0, -1, 8}>() a = Reshape(x, s)
        t = Constant<value = int64[1] {-1}>() c = Reshape(x, t) d = Flatten<axis = 2>(x) }""",
    "squeeze": """(float[N, 1, 4, 1] x) => (float a, float c, float d) {
        ax = Constant<value = int64[1] {-1}>() a = Squeeze(x, ax)
        two = Constant<value = int64[2] {0, -1}>() c = Unsqueeze(x, two)
        d = Transpose<perm = [3, 1, 2, 0]>(x) }""",
    "transpose_default": "(float[N, 3, 4] x) => (float a) { a = Transpose(x) }",
    "expand": """(float[N, 1, 4] x) => (float a, float c) { s = Constant<value = int64[3] {1, 5, 1}>()
        a = Expand(x, s) t = Constant<value = int64[4] {2, 1, 3, 4}>() c = Expand(x, t) }""",
    "tile": """(float[N, 3] x) => (float a) { r = Constant<value = int64[2] {2, 3}>()
        a = Tile(x, r) }""",
    "slice": """(float[N, 9] x) => (float a, float c, float d) { s = Constant<value = int64[1] {1}>()
        e = Constant<value = int64[1] {-1}>() ax = Constant<value = int64[1] {1}>()
        two = Constant<value = int64[1] {2}>() a = Slice(x, s, e, ax)
        c = Slice(x, s, e, ax, two) z = Constant<value = int64[1] {0}>()
        big = Constant<value = int64[1] {9223372036854775807}>() d = Slice(x, z, big, z) }""",
    "slice_symbolic_axis": """(float[N, 9] x) => (float a, float c) { s = Constant<value = int64[1] {-2}>()
        big = Constant<value = int64[1] {100}>() ax = Constant<value = int64[1] {0}>()
        a = Slice(x, s, big, ax) one = Constant<value = int64[1] {1}>()
        c = Slice(x, one, s, ax) }""",
    "slice_backwards": """(float[N, 9] x) => (float a, float c, float d) { m = Constant<value = int64[1] {-1}>()
        low = Constant<value = int64[1] {-9223372036854775807}>()
        ax = Constant<value = int64[1] {1}>() z = Constant<value = int64[1] {0}>()
        a = Slice(x, m, low, ax, m) s = Constant<value = int64[1] {7}>()
        e = Constant<value = int64[1] {2}>() two = Constant<value = int64[1] {-2}>()
        c = Slice(x, s, e, ax, two) d = Slice(x, m, low, z, m) }""",
    "concat_split": """(float[N, 3] x, float[N, 5] y) => (float a, float c, float d, float e, float f) {
        a = Concat<axis = -1>(x, y) s = Constant<value = int64[2] {2, 6}>() c,
        d = Split<axis = 1>(a, s) e, f = Split<axis = 1, num_outputs = 2>(x) }""",
    "split_symbolic": """(float[N, 6] x) => (float a, float c) { t = Concat<axis = 0>(x, x) a,
        c = Split<axis = 0, num_outputs = 2>(t) }""",
    "pad": """(float[N, 4] x) => (float a, float c, float d) {
        p = Constant<value = int64[4] {1, 2, 0, 1}>() v = Constant<value = float {0.5}>()
        a = Pad(x, p, v) r = Constant<value = int64[4] {0, 2, 0, 1}>()
        c = Pad<mode = "reflect">(x, r) d = Pad<mode = "edge">(x, p) }""",
    "pad_cuts": """(float[N, 6] x) => (float a) { p = Constant<value = int64[4] {0, -2, 1, 3}>()
        a = Pad(x, p) }""",
    "pad_axes": """(float[N, 6] x) => (float a) { p = Constant<value = int64[2] {2, 1}>()
        ax = Constant<value = int64[1] {-1}>() a = Pad(x, p, , ax) }""",
    "depth_space": """(float[N, 8, 4, 6] x) => (float a, float c, float d) {
        a = DepthToSpace<blocksize = 2>(x) c = DepthToSpace<blocksize = 2, mode = "CRD">(x)
        d = SpaceToDepth<blocksize = 2>(x) }""",
    "resize_nearest": """(float[N, 2, H, 3] x) => (float a, float c) {
        s = Constant<value = float[4] {1.0, 1.0, 2.0, 3.0}>()
        a = Resize<coordinate_transformation_mode = "asymmetric", nearest_mode = "floor">(x, , s)
        c = Resize(x, , s) }""",
    "trilu": """(float[N, 5, 6] x) => (float a, float c, float d) { k = Constant<value = int64 {1}>()
        a = Trilu(x) c = Trilu<upper = 0>(x, k) d = Trilu(x, k) }""",
    "eye_like": "(float[4, 5] x) => (float a) { a = EyeLike<k = 1>(x) }",
    "one_hot": """(int64[N, 2] k) => (float a, float c) { d = Constant<value = int64 {4}>()
        v = Constant<value = float[2] {-1.0, 2.0}>() one = Constant<value = int64 {1}>()
        m = Sub(k, one) a = OneHot(k, d, v) c = OneHot<axis = 0>(m, d, v) }""",
    "range_of_size": """(float[N, 3] x) => (int64 a, float c) { s = Shape<start = 0, end = 1>(x)
        n = Squeeze(s) z = Constant<value = int64 {0}>() two = Constant<value = int64 {2}>()
        one = Constant<value = int64 {1}>() a = Range(z, n, one) w = Range(one, n, two)
        c = Cast<to = 1>(w) }""",
    "range_of_reals": """(float[3] x) => (float a) { s = Constant<value = float {0.5}>()
        l = Constant<value = float {3.1}>() d = Constant<value = float {0.7}>()
        r = Range(s, l, d) m = ReduceMean(x) a = Add(r, m) }""",
    "constant_of_shape": """(float[N, 3] x) => (float a) { s = Shape(x)
        c = ConstantOfShape<value = float[1] {0.25}>(s) a = Add(x, c) }""",
    # places
    "gather": """(float[N, 3, 4] x, int64[2, 2] k) => (float a, float c, float d) {
        a = Gather<axis = 1>(x, k) one = Constant<value = int64 {-1}>()
        c = Gather<axis = 2>(x, one) d = Gather<axis = -1>(x, k) }""",
    "gather_elements": "(float[5, 3] x, int64[4, 3] k) => (float a) { a = GatherElements<axis = 0>(x, k) }",
    "gather_nd": """(float[3, 3, N] x, int64[4, 2] k, int64[4, 1] kk) => (float a, float c) {
        a = GatherND(x, k) c = GatherND(x, kk) }""",
    "scatter_elements": """(float[3, 4] x, int64[2, 4] k, float[2, 4] y) => (float a) {
        a = ScatterElements<axis = 0, reduction = "add">(x, k, y) }""",
    "scatter_nd": """(float[3, 4] x, int64[5, 1] k, float[5, 4] y) => (float a) {
        a = ScatterND<reduction = "add">(x, k, y) }""",
    "scatter_replaces": """(float[3, 4] x, float[2, 4] y) => (float a, float c) {
        k = Constant<value = int64[2, 4] {0, 1, 2, 0, 1, 2, 0, 1}>()
        a = ScatterElements<axis = 0>(x, k, y) kk = Constant<value = int64[2, 1] {2, 0}>()
        c = ScatterND(x, kk, y) }""",
    "nonzero": "(float[N, 3] x) => (int64 a) { r = Relu(x) a = NonZero(r) }",
    "compress": """(float[N, 4] x) => (float a) { c = Constant<value = bool[4] {1, 0, 1, 1}>()
        a = Compress<axis = 1>(x, c) }""",
    # quantisation
    "quantize": """(float[N, 3] x) => (uint8 a, float c) { s = Constant<value = float {0.05}>()
        z = Constant<value = uint8 {128}>() a = QuantizeLinear(x, s, z)
        c = DequantizeLinear(a, s, z) }""",
    "quantize_channels": """(float[N, 3] x, float[3] p) => (int8 a, float c) {
        s = Constant<value = float[3] {0.05, 0.01, 0.1}>()
        z = Constant<value = int8[3] {0, 3, -5}>() a = QuantizeLinear(x, s, z)
        c = DequantizeLinear(a, p, z) }""",
    "matmul_integer": """(uint8[N, 4] q, uint8[4, 3] qq) => (int32 a) { z = Constant<value = uint8 {7}>()
        a = MatMulInteger(q, qq, z, z) }""",
    # what onnxruntime's own optimiser writes
    "fused": """(float[N, 4] x, float[4] y, float[N, 4] xx) => (float a, float c, float d, float e, float f) {
        a = com.microsoft.QuickGelu(x) c = com.microsoft.FastGelu(x, y) d = com.microsoft.BiasGelu(x, y)
        e = com.microsoft.Gelu(x) f = com.microsoft.FusedMatMul<transB = 1, alpha = 0.5>(x, xx) }""",
    "fused_norms": """(float[N, 2, 4] x, float[N, 2, 4] xx, float[4] y, float[4] p) => (float a, float c, float d) {
        a = com.microsoft.SkipLayerNormalization<epsilon = 0.01>(x, xx, y, p, p)
        c = SimplifiedLayerNormalization<axis = -1, epsilon = 0.01>(x, p)
        d = com.microsoft.SkipSimplifiedLayerNormalization<epsilon = 0.01>(x, xx, p) }""",
    # choices that sizes decide
    "if_of_sizes": """(float[N, 3] x) => (float a) { s = Shape<start = 1>(x) three = Constant<value =
        int64[1] {3}>() e = Equal(s, three) c = Squeeze(e) a = If (c) <then_branch = g1 () =>
        (float t) { t = Relu(x) }, else_branch = g2 () => (float u) { u = Neg(x) }> }""",
}

# What newer and older opsets write differently.
VERSIONS: dict[str, tuple[int, str]] = {
    "reduce_axes_attribute": (
        13,
        """(float[N, 3, 4] x) => (float a, float c) {
        a = ReduceMean<axes = [-1], keepdims = 0>(x) c = ReduceMax<axes = [0, 1]>(x) }""",
    ),
    "split_without_sizes": (
        13,
        "(float[N, 6] x) => (float a, float c) { a, c = Split<axis = 1>(x) }",
    ),
    "split_uneven": (
        18,
        """(float[N, 7] x) => (float a, float c, float d) { a, c,
        d = Split<axis = 1, num_outputs = 3>(x) }""",
    ),
    "pad_13": (
        13,
        """(float[N, 4] x) => (float a) { p = Constant<value = int64[4] {1, 2, 0, 1}>()
        a = Pad(x, p) }""",
    ),
    "gelu": (
        20,
        '(float[N, 4] x) => (float a, float c) { a = Gelu(x) c = Gelu<approximate = "tanh">(x) }',
    ),
    "group_norm": (
        21,
        """(float[N, 4, 3] x, float[4] y, float[4] p) => (float a) {
        a = GroupNormalization<num_groups = 2>(x, y, p) }""",
    ),
    "group_norm_by_group": (
        18,
        "(float[N, 4, 3] x, float[2] y, float[2] p) => (float a) { a = GroupNormalization<num_groups = 2>(x, y, p) }",
    ),
    "rms_norm": (23, "(float[N, 3, 4] x, float[4] p) => (float a) { a = RMSNormalization<epsilon = 0.01>(x, p) }"),
    "reduce_max_of_truth": (
        20,
        """(bool[N, 4] b) => (bool a, bool c) { ax = Constant<value = int64[1] {1}>()
        a = ReduceMax(b, ax) c = ReduceMin(b, ax) }""",
    ),
    "shape_whole": (
        14,
        "(float[N, 4] x) => (float a) { s = Shape(x) a = Expand(x, s) }",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operator_means_what_onnxruntime_does(name: str) -> None:
    agrees(CASES[name])


@pytest.mark.parametrize("name", VERSIONS)
def test_versions_of_an_operator(name: str) -> None:
    opset, text = VERSIONS[name]
    agrees(text, opset=opset)


REFUSED = {
    "random_dropout": (
        "(float[4] x) => (float a) { t = Constant<value = bool {1}>() a = Dropout(x, , t) }",
        "training mode",
    ),
    "linear_resize": (
        """(float[1, 1, 4, 4] x) => (float a) {
        s = Constant<value = float[4] {1.0, 1.0, 2.0, 2.0}>()
        a = Resize<mode = "linear">(x, , s) }""",
        "nearest",
    ),
    "part_resize": (
        """(float[1, 1, 4, 4] x) => (float a) {
        s = Constant<value = float[4] {1.0, 1.0, 1.5, 2.0}>() a = Resize(x, , s) }""",
        "whole multiples",
    ),
    "shape_of_data": (
        "(float[4] x, int64[1] i) => (float a) { a = Reshape(x, i) }",
        "computed from data",
    ),
    "choice_by_data": (
        """(bool[1] b, float[4] x) => (float a) { a = If (b) <then_branch = g1 () => (float t) {
        t = Relu(x) }, else_branch = g2 () => (float u) { u = Neg(x) }> }""",
        "computed from data",
    ),
    "wrap_pad": (
        """(float[4] x) => (float a) { p = Constant<value = int64[2] {1, 1}>()
        a = Pad<mode = "wrap">(x, p) }""",
        "mode 'wrap'",
    ),
    "places_of_maxima": (
        "(float[1, 1, 4] x) => (float a, int64 c) { a, c = MaxPool<kernel_shape = [2]>(x) }",
        "places of the maxima",
    ),
    "same_pad_of_symbol": (
        """(float[1, 1, L] x, float[1, 1, 3] y) => (float a) {
        a = Conv<auto_pad = "SAME_UPPER", strides = [2]>(x, y) }""",
        "fixed size",
    ),
    "repeated_letters": (
        '(float[4, 4] x) => (float a) { a = Einsum<equation = "ii->i">(x) }',
        "repeated letters",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_forms_that_are_not_supported_are_named(name: str) -> None:
    text, words = REFUSED[name]
    opset = 19 if name == "wrap_pad" else 18
    model = parsed(text, opset)
    with pytest.raises(ImportFailed, match=words) as caught:
        from_onnx(model)
    assert f"opset {opset}" in str(caught.value)


def test_auto_pad_with_a_size_that_stride_divides() -> None:
    text = """(float[1, 2, L] x, float[3, 2, 3] y) => (float a) { t = Concat<axis = 2>(x, x)
        a = Conv<auto_pad = "SAME_UPPER", strides = [2]>(t, y) }"""
    graph = agrees(text)
    assert str(graph.outputs[0].shape[2]) == "L"


def test_a_node_with_too_few_inputs_is_named() -> None:
    model = parsed("(float[4] x) => (float y) { y = Add(x) }")
    with pytest.raises(ImportFailed, match="Add at node 'y', opset 18"):
        from_onnx(model)


def test_index_outside_a_shape_is_refused() -> None:
    text = """(float[N, 4] x) => (float y) { s = Shape(x) i = Constant<value = int64 {2}>()
        n = Gather(s, i) t = Constant<value = int64[1] {0}>() u = Unsqueeze(n, t)
        y = Expand(x, u) }"""
    model = parsed(text)
    with pytest.raises(ImportFailed, match="index outside"):
        from_onnx(model)


def test_numbers_that_people_wrote_keep_their_decimals() -> None:
    text = (
        "(float[4] x) => (float y) { c = Constant<value = float {0.1}>() a = Mul(x, c) y = LeakyRelu<alpha = 0.3>(a) }"
    )
    graph = from_onnx(parsed(text))
    assert [op.attrs["value"] for op in graph.ops if op.kind == "full"] == [0.1]
    assert graph.ops[-1].attrs["slope"] == 0.3
    assert np.float32(graph.ops[-1].attrs["slope"]) == np.float32(0.3)
