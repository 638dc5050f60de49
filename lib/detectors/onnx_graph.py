"""ONNX graphs written by hand: a builder, the scaling in front of every detector, tree ensembles.

Every graph maps ``features`` float32 [n, d], in raw units, to one output. The same calls give the
same bytes. A converter of whole estimators takes far longer and gives larger, slower graphs.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray
from onnx import ModelProto, NodeProto, TensorProto, checker, helper, numpy_helper

from lib.bundle.calibration import Calibration
from lib.detectors.onnx_trees import Tree, ensemble_attributes
from lib.detectors.scaling import CLIP, Scaler

FEATURES = "features"
OPSETS = (("", 17), ("ai.onnx.ml", 3))
IR_VERSION = 9
LARGEST = float(np.finfo(np.float32).max)


class Graph:
    """A graph under construction; each method adds nodes and returns the name of what they compute.

    Parameters
    ----------
    n_features : int
        Width d of the input ``features``.

    Examples
    --------
    >>> graph = Graph(2)
    >>> total = graph.sum_columns("features")
    >>> model = graph.finish(total)
    """

    def __init__(self, n_features: int) -> None:
        self.n_features = n_features
        self._nodes: list[NodeProto] = []
        self._constants: dict[tuple, tuple[str, np.ndarray]] = {}

    def constant(self, values: ArrayLike, dtype: DTypeLike = np.float32) -> str:
        """Store an array and return its name; equal arrays share one."""
        array = np.asarray(values, dtype=dtype)
        array = np.ascontiguousarray(array)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            name = f"c{len(self._constants)}"
            self._constants[key] = (name, array)
        name, _ = self._constants[key]
        return name

    def exact(self, values: ArrayLike) -> str:
        """Store float64, for what float32 would round too coarsely."""
        return self.constant(values, np.float64)

    def add(
        self,
        op: str,
        *inputs: str | ArrayLike,
        domain: str = "",
        **attributes,
    ) -> str:
        """Add a node and return the name of its only output.

        Parameters
        ----------
        op : str
            An operator of ONNX, "MatMul".
        inputs : str or array-like
            Names; arrays and numbers become float32 constants.
        domain : str
            Whose operator it is; empty for ONNX itself.
        attributes
            Of the node, as ONNX names them.
        """
        names = [self._name(each) for each in inputs]
        output = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(
            helper.make_node(op, names, [output], output, domain=domain, **attributes)
        )
        return output

    def log_sum_exp(self, values: str) -> str:
        """Compute log(sum(exp(x))) over the last axis of [n, m, k], [n, m, 1].

        ONNX has an operator for it, which takes twice as long: its exponential knows no vectors.
        """
        greatest = self.add("ReduceMax", values, axes=[2], keepdims=1)
        power = self.add("Exp", self.add("Sub", values, greatest))
        total = self.add("ReduceSum", power, self.constant([2], np.int64), keepdims=1)
        return self.add("Add", greatest, self.add("Log", total))

    def smallest(self, values: str, k: int) -> tuple[str, str]:
        """Return the names of the k least values of each row [n, k], ascending, and their places.

        Parameters
        ----------
        values : str
            Of shape [n, m].
        k : int
        """
        name = f"topk_{len(self._nodes)}"
        outputs = (f"{name}_values", f"{name}_places")
        inputs = [values, self.constant([k], np.int64)]
        self._nodes.append(helper.make_node("TopK", inputs, outputs, name, largest=0, axis=1))
        return outputs

    def count_below(self, values: str, tables: Sequence[NDArray], *, equal: bool = False) -> str:
        """Count for each value the numbers of its column's table below it, int64 [n, d].

        A binary search, all columns at once: log2 of the longest table's length in steps.

        Parameters
        ----------
        values : str
            float64 [n, d].
        tables : sequence of d arrays, float64, ascending
        equal : bool
            Whether numbers equal to the value count as well.
        """
        size = 1 << max(len(each) for each in tables).bit_length()
        padded = np.full((len(tables), size), np.inf)
        for row, each in zip(padded, tables, strict=True):
            row[: len(each)] = each
        table = self.exact(padded.ravel())
        starts = self.constant(np.arange(len(tables))[None, :] * size, np.int64)
        nothing = self.constant(np.zeros((1, len(tables))), np.int64)
        count = self.add("Expand", nothing, self.add("Shape", values))
        step = size // 2
        while step:
            probed = self.add("Add", count, self.constant(step - 1, np.int64))
            probe = self.add("Gather", table, self.add("Add", probed, starts))
            passed = self.add("LessOrEqual" if equal else "Less", probe, values)
            jump = self.add("Cast", passed, to=TensorProto.INT64)
            jump = self.add("Mul", jump, self.constant(step, np.int64))
            count = self.add("Add", count, jump)
            step //= 2
        return count

    def _name(self, value):
        """Return a name as it is, and that of an array or number stored as float32."""
        return value if isinstance(value, str) else self.constant(value)

    def reshape(self, values: str, shape: Sequence[int]) -> str:
        """Reshape as numpy does, -1 for the length that follows from the others."""
        shape = self.constant(shape, np.int64)
        return self.add("Reshape", values, shape)

    def flat(self, values: str) -> str:
        """Reshape [n, 1] to [n]."""
        return self.reshape(values, [-1])

    def sum_columns(self, values: str, keepdims: int = 0) -> str:
        """Add up the second axis: [n, d, …] to [n, …], or [n, 1, …] with keepdims=1."""
        axes = self.constant([1], np.int64)
        return self.add("ReduceSum", values, axes, keepdims=keepdims)

    def single(self, values: str) -> str:
        """Convert to float32."""
        return self.add("Cast", values, to=TensorProto.FLOAT)

    def double(self, values: str) -> str:
        """Convert to float64."""
        return self.add("Cast", values, to=TensorProto.DOUBLE)

    def imputed(self, median: ArrayLike, features: str = FEATURES) -> str:
        """Replace NaN by median (d,)."""
        row = np.asarray(median)[None, :]
        missing = self.add("IsNaN", features)
        return self.add("Where", missing, row, features)

    def scaled(self, scaler: Scaler, features: str = FEATURES) -> str:
        """Compute what :meth:`lib.detectors.scaling.Scaler.transform` returns, float32 [n, d]."""
        x = self.imputed(scaler.median_, features)
        shifted = self.add("Sub", x, scaler.shift_)
        t = self.add("Mul", shifted, 1 / scaler.unit_)
        if scaler.logged_.any():
            z = self._log_some(t, scaler)
        else:
            centred = self.add("Sub", t, scaler.centre_)
            z = self.add("Mul", centred, 1 / scaler.scale_)
        return self.add("Clip", z, -CLIP, CLIP)

    def _log_some(self, t, scaler):
        """Apply `lib.detectors.scaling.signed_log` to the columns that are logged; standardise all.

        Most tables have few such columns, and a logarithm costs as much as ten products: they are
        gathered, and put back in their places by a product with one entry a column, which is exact.
        """
        t = self.add("Clip", t, -LARGEST, LARGEST)  # infinity times 0 would be NaN
        factor = 1 / scaler.scale_
        places = np.flatnonzero(scaler.logged_)
        logged = self.add("Gather", t, self.constant(places, np.int64), axis=1)
        size = self.add("Abs", logged)
        size = self.add("Add", size, 1.0)
        size = self.add("Log", size)
        sign = self.add("Sign", logged)
        signed = self.add("Mul", sign, size)
        spread = np.diag(factor)[places]  # (k, d)
        put_back = self.add("Gemm", signed, spread, -scaler.centre_ * factor)
        kept = np.where(scaler.logged_, 0.0, factor)
        return self.add("Gemm", t, np.diag(kept), put_back)

    def surprise(self, raw: str, calibration: Calibration) -> str:
        """Compute the surprise of raw scores [n], float64 [n].

        It is -log of the fraction of validation transactions with an equal or higher score, as
        :meth:`lib.bundle.calibration.Calibration.strangeness` computes it: the fraction falls along
        straight lines between knots, and along a Lomax tail beyond the last one.
        """
        starts, shares, slopes = calibration.lines
        line_start = self.exact(starts)
        line_share = self.exact(shares)
        line_slope = self.exact(slopes)
        knots = calibration.raw_score

        # The number of inner knots that a score has passed tells on which line it lies.
        r = self.double(raw)
        column = self.reshape(r, [-1, 1])
        inner = self.exact(knots[None, 1:-1])
        passed = self.add("GreaterOrEqual", column, inner)
        count = self.sum_columns(self.single(passed))
        line = self.add("Cast", count, to=TensorProto.INT64)

        first = self.exact(knots[0])
        last = self.exact(knots[-1])
        inside = self.add("Clip", r, first, last)
        start = self.add("Gather", line_start, line)
        along = self.add("Sub", inside, start)
        slope = self.add("Gather", line_slope, line)
        fall = self.add("Mul", along, slope)
        share = self.add("Gather", line_share, line)
        share = self.add("Add", share, fall)
        log_share = self.add("Log", share)

        beyond = self.add("Sub", r, last)
        beyond = self.add("Max", beyond, self.exact(0))
        tail = self.add("Div", beyond, self.exact(calibration.tail_scale))
        tail = self.add("Add", tail, self.exact(1))
        log_tail = self.add("Log", tail)
        return self.add("Sub", log_tail, log_share)

    def include(self, model: bytes, features: str = FEATURES, output: str = "") -> str:
        """Add all nodes of another graph with one input; return the name of its output.

        Parameters
        ----------
        model : bytes
            What :meth:`finish` returned for the other graph, or a converter.
        features : str
            What takes the place of its input.
        output : str
            Which of its outputs; empty: the first.
        """
        inner = ModelProto.FromString(model).graph
        # both graphs number their nodes and constants from 0: those of the other get new names
        renamed = {"": "", inner.input[0].name: features}
        for tensor in inner.initializer:
            array = numpy_helper.to_array(tensor)
            renamed[tensor.name] = self.constant(array, array.dtype)
        for node in inner.node:
            name = f"{node.op_type.lower()}_{len(self._nodes)}"
            copied = type(node)()
            copied.CopyFrom(node)
            copied.name = name
            copied.input[:] = [renamed[each] for each in node.input]
            copied.output[:] = [f"{name}_{i}" if i else name for i in range(len(node.output))]
            renamed |= dict(zip(node.output, copied.output, strict=True))
            renamed[""] = ""  # an output that is left out
            self._nodes.append(copied)
        return renamed[output or inner.output[0].name]

    def tree_sum(self, trees: Sequence[Tree], features: str = FEATURES) -> str:
        """Sum over trees the value of the leaf that each row reaches, float32 [n, 1].

        Parameters
        ----------
        trees : list of dict
            Arrays as :mod:`lib.detectors.onnx_trees` describes them.
        """
        attributes = ensemble_attributes(trees)
        return self.add("TreeEnsembleRegressor", features, domain="ai.onnx.ml", **attributes)

    def finish(self, output: str, name: str = "raw_score") -> bytes:
        """Close the graph with `output` under `name` and return its bytes.

        Parameters
        ----------
        output : str
            Name of what the graph returns.
        name : {"raw_score", "contributions"}
            Tells the shape as well: [n] or [n, d].
        """
        last = helper.make_node("Identity", [output], [name], name=name)
        self._nodes.append(last)
        rows: list[str | int | None] = ["n", self.n_features]
        shape = rows if name == "contributions" else ["n"]
        described = helper.make_tensor_value_info
        constants = self._constants.values()
        graph = helper.make_graph(
            self._nodes,
            "detector",
            inputs=[described(FEATURES, TensorProto.FLOAT, rows)],
            outputs=[described(name, TensorProto.FLOAT, shape)],
            initializer=[numpy_helper.from_array(array, key) for key, array in constants],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid(*each) for each in OPSETS],
            ir_version=IR_VERSION,
            producer_name="fraud-pipeline",
        )
        checker.check_model(model)
        # protobuf promises no order of its fields unless it is asked for one
        return model.SerializeToString(deterministic=True)
