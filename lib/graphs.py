"""ONNX graphs written by hand: a builder, the scaling in front of every detector, tree ensembles.

Every graph maps ``features`` float32 [n, d], raw, to one output; the same calls give the same bytes.
"""

import numpy as np
from onnx import ModelProto, TensorProto, checker, helper, numpy_helper

from lib.scaling import CLIP
from lib.trees import ensemble_attributes

OPSETS = (("", 17), ("ai.onnx.ml", 3))
IR_VERSION = 9


class Graph:
    """A graph under construction; each method adds nodes and returns the name of what they compute.

    Parameters
    ----------
    n_features : int
        Width d of the input ``features``.

    Examples
    --------
    >>> graph = Graph(2)
    >>> total = graph.add("ReduceSum", "features", graph.constant([1], np.int64), keepdims=0)
    >>> model = graph.finish(total)
    """

    def __init__(self, n_features):
        self.n_features = n_features
        self._nodes, self._constants = [], {}

    def constant(self, values, dtype=np.float32):
        """Store an array and return its name; equal arrays share one."""
        array = np.ascontiguousarray(np.asarray(values, dtype=dtype))
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            self._constants[key] = (f"c{len(self._constants)}", array)
        return self._constants[key][0]

    def add(self, op, *inputs, domain="", **attributes):
        """Add a node and return the name of its only output.

        Inputs are names; arrays and numbers become float32 constants.
        """
        names = [each if isinstance(each, str) else self.constant(each) for each in inputs]
        output = f"{op.lower()}_{len(self._nodes)}"
        self._nodes.append(helper.make_node(op, names, [output], name=output, domain=domain, **attributes))
        return output

    def imputed(self, median, features="features"):
        """``features`` with NaN replaced by median (d,)."""
        return self.add("Where", self.add("IsNaN", features), np.asarray(median)[None, :], features)

    def scaled(self, scaler, features="features"):
        """What :meth:`lib.scaling.Scaler.transform` returns, float32 [n, d]."""
        x = self.imputed(scaler.median_, features)
        t = self.add("Mul", self.add("Sub", x, scaler.shift_), 1 / scaler.unit_)
        if scaler.logged_.any():
            size = self.add("Log", self.add("Add", self.add("Abs", t), 1.0))
            logged = self.add("Mul", self.add("Sign", t), size)
            t = self.add("Where", self.constant(scaler.logged_, bool), logged, t)
        z = self.add("Mul", self.add("Sub", t, scaler.centre_), 1 / scaler.scale_)
        return self.add("Clip", z, -CLIP, CLIP)

    def flat(self, values):
        """Reshape [n, 1] to [n]."""
        return self.add("Reshape", values, self.constant([-1], np.int64))

    def single(self, values):
        """float64 as float32."""
        return self.add("Cast", values, to=TensorProto.FLOAT)

    def strangeness(self, raw, calibration):
        """What :meth:`lib.calibration.Calibration.strangeness` returns for raw scores [n], float64 [n]."""
        q, share, slope = (self.constant(each, np.float64) for each in calibration.lines)
        last, inner = calibration.raw_score[-1], calibration.raw_score[None, 1:-1]
        r = self.add("Cast", raw, to=TensorProto.DOUBLE)
        column = self.add("Reshape", r, self.constant([-1, 1], np.int64))
        passed = self.add("GreaterOrEqual", column, self.constant(inner, np.float64))
        count = self.add(
            "ReduceSum", self.add("Cast", passed, to=TensorProto.FLOAT), self.constant([1], np.int64), keepdims=0
        )
        at = self.add("Cast", count, to=TensorProto.INT64)
        inside = self.add("Clip", r, *(self.constant(each, np.float64) for each in calibration.raw_score[[0, -1]]))
        along = self.add("Mul", self.add("Sub", inside, self.add("Gather", q, at)), self.add("Gather", slope, at))
        left = self.add("Log", self.add("Add", self.add("Gather", share, at), along))
        beyond = self.add("Max", self.add("Sub", r, self.constant(last, np.float64)), self.constant(0, np.float64))
        tail = self.add("Div", beyond, self.constant(calibration.tail_scale, np.float64))
        return self.add("Sub", self.add("Log", self.add("Add", tail, self.constant(1, np.float64))), left)

    def include(self, model):
        """Add all nodes of another graph, its bytes, over the same ``features``; returns the name of its output."""
        inner = ModelProto.FromString(model).graph
        names = {"": "", "features": "features"}
        for tensor in inner.initializer:
            array = numpy_helper.to_array(tensor)
            names[tensor.name] = self.constant(array, array.dtype)
        for node in inner.node:
            copied = type(node)()
            copied.CopyFrom(node)
            copied.name = names[node.output[0]] = f"{node.op_type.lower()}_{len(self._nodes)}"
            copied.input[:] = [names[each] for each in node.input]
            copied.output[:] = [copied.name]
            self._nodes.append(copied)
        return names[inner.output[0].name]

    def tree_sum(self, trees, features="features"):
        """Sum over trees of the value of the leaf that each row reaches, float32 [n, 1].

        Parameters
        ----------
        trees : list of dict
            Arrays of one length per tree: ``left``, ``right`` (child positions, -1 at a leaf), ``feature``,
            ``threshold`` (a row goes left if x <= threshold; float64) and ``value`` (at leaves).
        """
        return self.add("TreeEnsembleRegressor", features, domain="ai.onnx.ml", **ensemble_attributes(trees))

    def finish(self, output, name="raw_score"):
        """Close the graph with `output` under the name ``raw_score`` [n] or ``contributions`` [n, d]; return bytes."""
        self._nodes.append(helper.make_node("Identity", [output], [name], name=name))
        shape = ["n", self.n_features] if name == "contributions" else ["n"]
        graph = helper.make_graph(
            self._nodes,
            "detector",
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", self.n_features])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)],
            [numpy_helper.from_array(array, key) for key, array in self._constants.values()],
        )
        opsets = [helper.make_opsetid(domain, version) for domain, version in OPSETS]
        model = helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION, producer_name="fraud-pipeline")
        checker.check_model(model)
        return model.SerializeToString(deterministic=True)
