"""The encoder as an ONNX graph of standard operators, for programs that run no code of ours.

Names and order of the steps are those of `reference_model`; shapes are written (texts N, tokens T,
width). The recurrence is a `Scan` over tokens: exact, and of constant memory at any length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from adaptive_search.encoder.config import EncoderConfig

Array = NDArray[np.float32]

OPSET, IR_VERSION = 17, 8  # of 2022: what runtimes in use understand
IDS, MASK, VECTORS = "input_ids", "attention_mask", "vectors"


def build(
    config: EncoderConfig, tensors: Mapping[str, Array], heads: Sequence[int], dim: int
) -> onnx.ModelProto:
    """The graph of one width and one dimension.

    It maps input_ids and attention_mask, int64 (N, T), to vectors, float32 (N, dim) of unit length.
    Texts are padded at their ends, where the mask is 0; each has one token at least.

    Args:
        config: sizes of the model.
        tensors: float32 arrays of the checkpoint by name.
        heads: active heads of each layer.
        dim: one of the nesting dimensions.
    """
    graph = _Encoder(config, tensors)
    vectors = graph.encode(heads, config.bands_of(dim))
    graph.nodes.append(helper.make_node("Identity", [vectors], [VECTORS]))
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.INT64, ["texts", "tokens"])
        for name in (IDS, MASK)
    ]
    output = helper.make_tensor_value_info(VECTORS, TensorProto.FLOAT, ["texts", dim])
    return helper.make_model(
        helper.make_graph(graph.nodes, "encoder", inputs, [output], graph.constants),
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="adaptive-search",
    )


class _Graph:
    """Nodes and constants in the making; values go by their names."""

    def __init__(self, prefix: str = "") -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self._names = (f"{prefix}{n}" for n in itertools.count())

    def apply(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> Any:  # noqa: ANN401
        """Add a node; its output's name, or a list of them if there are several."""
        names = [f"{operator.lower()}_{next(self._names)}" for _ in range(outputs)]
        self.nodes.append(helper.make_node(operator, inputs, names, **attributes))
        return names if outputs > 1 else names[0]

    def constant(self, value: Array | NDArray[np.int64] | float) -> str:
        name = f"constant_{next(self._names)}"
        array = np.asarray(value, dtype=np.float32 if isinstance(value, float) else None)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def integers(self, *values: int) -> str:
        return self.constant(np.array(values, dtype=np.int64))

    def unsqueeze(self, x: str, *axes: int) -> str:
        return str(self.apply("Unsqueeze", x, self.integers(*axes)))

    def split(self, x: str, *sizes: int) -> list[str]:
        """Cut the last axis."""
        return list(self.apply("Split", x, self.integers(*sizes), outputs=len(sizes), axis=-1))

    def linear(self, x: str, weight: Array) -> str:
        return str(self.apply("MatMul", x, self.constant(weight.T)))

    def silu(self, x: str) -> str:
        return str(self.apply("Mul", x, self.apply("Sigmoid", x)))

    def rms_norm(self, x: str, weight: Array, eps: float) -> str:
        squares = self.apply("ReduceMean", self.apply("Mul", x, x), axes=[-1], keepdims=1)
        length = self.apply("Sqrt", self.apply("Add", squares, self.constant(eps)))
        return str(self.apply("Mul", self.apply("Div", x, length), self.constant(weight)))


class _Encoder(_Graph):
    """The model's steps."""

    def __init__(self, config: EncoderConfig, tensors: Mapping[str, Array]) -> None:
        super().__init__()
        self._config = config
        self._tensors = tensors

    def encode(self, heads: Sequence[int], bands: int) -> str:
        config, tensors = self._config, self._tensors
        x = self.apply("Gather", self.constant(tensors["embedding.weight"]), IDS)
        lengths = self.apply("ReduceSum", MASK, self.integers(1), keepdims=0)
        for i, active in enumerate(heads):
            prefix = f"blocks.{i}."
            block = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
            backwards = config.direction == "alternating" and i % 2 == 1
            u = self.rms_norm(x, block["mixer_norm.weight"], config.norm_eps)
            if backwards:
                u = self._reverse(u, lengths)
            mixed = self._mix(block, u, active)
            x = self.apply("Add", x, self._reverse(mixed, lengths) if backwards else mixed)
            u = self.rms_norm(x, block["mlp_norm.weight"], config.norm_eps)
            x = self.apply("Add", x, self._transform(block, u, active))
        h = self.rms_norm(x, tensors["final_norm.weight"], config.norm_eps)
        return self._project(self._pool(h, self._config.pooled_bands(bands)), bands)

    def _reverse(self, x: str, lengths: str) -> str:
        """Each text's own tokens from last to first."""
        return str(self.apply("ReverseSequence", x, lengths, batch_axis=0, time_axis=1))

    def _mix(self, block: Mapping[str, Array], u: str, heads: int) -> str:
        """The MatMamba2 mixer with the first `heads` heads, (N, T, d_model) to the same."""
        config = self._config
        inner, full, d_state = heads * config.headdim, config.d_inner, config.d_state
        channels = np.r_[:inner, full : full + 2 * d_state]  # of the convolution: x, B, C
        rows = np.r_[:inner, full + channels, 2 * (full + d_state) : 2 * (full + d_state) + heads]
        z, xBC, dt = self.split(
            self.linear(u, block["mixer.in_proj.weight"][rows]), inner, len(channels), heads
        )
        xBC = self.apply(
            "Conv",
            self.apply("Transpose", xBC, perm=[0, 2, 1]),
            self.constant(block["mixer.conv1d.weight"][channels]),
            self.constant(block["mixer.conv1d.bias"][channels]),
            group=len(channels),
            pads=[config.d_conv - 1, 0],
        )
        x, B, C = self.split(
            self.silu(self.apply("Transpose", xBC, perm=[0, 2, 1])), inner, d_state, d_state
        )
        dt = self.apply("Add", dt, self.constant(block["mixer.dt_bias"][:heads]))
        y = self._scan(block, x, self.apply("Softplus", dt), B, C, heads)
        gated = self.apply("Mul", y, self.silu(z))
        y = self.rms_norm(gated, block["mixer.norm.weight"][:inner], config.norm_eps)
        return self.linear(y, block["mixer.out_proj.weight"][:, :inner])

    def _scan(self, block: Mapping[str, Array], x: str, dt: str, B: str, C: str, heads: int) -> str:
        """The recurrence of `kernels.reference.ssd_scan`; (N, T, heads * headdim)."""
        headdim, d_state = self._config.headdim, self._config.d_state
        x = self.apply("Reshape", x, self.integers(0, 0, heads, headdim))
        step = self.apply("Mul", x, self.unsqueeze(dt, 3))
        A = -np.exp(block["mixer.A_log"][:heads])
        decay = self.apply("Exp", self.apply("Mul", dt, self.constant(A)))
        shape = self.apply(
            "Concat",
            self.apply("Shape", IDS, start=0, end=1),
            self.integers(heads, headdim, d_state),
            axis=0,
        )
        _, y = self.apply(
            "Scan",
            self.apply("ConstantOfShape", shape),
            *(decay, step, B, C),
            outputs=2,
            body=_scan_body(),
            num_scan_inputs=4,
            scan_input_axes=[1] * 4,
            scan_output_axes=[1],
        )
        skip = self.apply("Mul", x, self.constant(block["mixer.D"][:heads, None]))
        return str(
            self.apply("Reshape", self.apply("Add", y, skip), self.integers(0, 0, heads * headdim))
        )

    def _transform(self, block: Mapping[str, Array], u: str, heads: int) -> str:
        """The swish-gated MLP at the width that belongs to `heads` heads."""
        full = self._config.d_mlp
        width = full * heads // self._config.nheads
        rows = np.r_[:width, full : full + width]
        gate, up = self.split(self.linear(u, block["mlp.gate_up.weight"][rows]), width, width)
        gated = self.apply("Mul", self.silu(gate), up)
        return self.linear(gated, block["mlp.down.weight"][:, :width])

    def _pool(self, h: str, bands: int) -> str:
        """Softmax-weighted means of the tokens under the mask, (N, bands, d_model)."""
        logits = self.linear(h, self._tensors["pooling.query"][:bands])
        present = self.unsqueeze(self.apply("Cast", MASK, to=TensorProto.BOOL), 2)
        logits = self.apply("Where", present, logits, self.constant(-math.inf))
        weights = self.apply("Softmax", logits, axis=1)
        return str(self.apply("MatMul", self.apply("Transpose", weights, perm=[0, 2, 1]), h))

    def _project(self, pooled: str, bands: int) -> str:
        """Each band's head at the band's length, which makes prefixes of unit length."""
        config, parts = self._config, []
        for b in range(config.pooled_bands(bands)):
            state = self.apply("Gather", pooled, self.constant(np.array(b)), axis=1)
            parts.append(self._unit_head(state, f"heads.{b}.weight"))
        if completed := [b for b in config.completed if b < bands]:
            whole = self.apply("Concat", *parts, axis=-1)
            for b in completed:
                parts[b] = self._unit_head(whole, f"completion.{b}.weight")
        for b in range(bands):
            weight = config.band_weights[b] / math.sqrt(config.prefix_energy[bands - 1])
            parts[b] = self.apply("Mul", parts[b], self.constant(weight))
        return str(self.apply("Concat", *parts[:bands], axis=-1))

    def _unit_head(self, state: str, name: str) -> str:
        band = self.linear(state, self._tensors[name])
        length = self.apply("ReduceL2", band, axes=[-1], keepdims=1)
        return str(self.apply("Div", band, self.apply("Max", length, self.constant(1e-12))))


def _scan_body() -> onnx.GraphProto:
    """One token: the new state (N, heads, headdim, d_state) and y (N, heads, headdim)."""
    body = _Graph("token_")  # names of the graph around it must not come again
    inputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        for name, rank in (("state", 4), ("decay", 2), ("step", 3), ("B", 2), ("C", 2))
    ]
    kept = body.apply("Mul", "state", body.unsqueeze("decay", 2, 3))
    gained = body.apply("Mul", body.unsqueeze("step", 3), body.unsqueeze("B", 1, 2))
    state = body.apply("Add", kept, gained)
    y = body.apply("MatMul", state, body.unsqueeze("C", 1, 3))
    y = body.apply("Squeeze", y, body.integers(3))
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank)
        for name, rank in ((state, 4), (y, 3))
    ]
    return helper.make_graph(body.nodes, "token", inputs, outputs, body.constants)
