"""Build on the finished candidates of a run: read them as detectors, fuse them into one."""

from collections.abc import Sequence
from pathlib import Path

from lib.bundle import Bundle
from lib.bundle.manifest import read
from lib.data.splits import Split
from lib.detectors.base import Detector
from lib.detectors.fusion import Fusion
from lib.detectors.onnx_graph import Graph
from lib.errors import DataError
from lib.registry import candidates


class Exported(Detector):
    """A candidate of a run, read back from its graph: fitted once, used by whatever builds on it.

    It is no estimator: it is fitted already and cannot be fitted again.

    Parameters
    ----------
    folder : Path or str
        Of the candidate.
    threads : int
        Compute threads of scoring.

    Raises
    ------
    BundleError
        If the candidate is not whole.
    """

    def __init__(self, folder: Path | str, threads: int = 1) -> None:
        self.folder = folder
        self.threads = threads
        self.manifest_, self.graphs_ = read(Path(folder))
        self.bundle_ = Bundle(
            self.manifest_,
            self.graphs_,
            threads,
            str(folder),
        )
        self.n_features_in_ = len(self.bundle_.features)

    def _raw_score(self, X):
        return self.bundle_.raw_score(X)

    def graph_score(self, graph: Graph) -> str:
        """Add the candidate's own graph."""
        return graph.include(self.graphs_["model.onnx"])

    def graph_contributions(self, graph: Graph) -> str | None:
        """Add the candidate's own explanation; None if it has none."""
        explain = self.graphs_.get("explain.onnx")
        if explain is None:
            return None
        return graph.include(explain)


def fuse(
    run_dir: Path,
    split: Split,
    folders: dict[str, Path],
    models: Sequence[str],
    threads: int = 1,
) -> dict[str, Path]:
    """Write the fusion of some candidates of a run, for each regime that has them all.

    Parameters
    ----------
    run_dir : Path
    split : lib.data.splits.Split
    folders : dict of name to folder
        The run's candidates.
    models : sequence of str
        Their names without the regime; none: there is no fusion.
    threads : int

    Returns
    -------
    dict of name to folder
        The candidates that were written.

    Raises
    ------
    DataError
        If one of the models is no candidate of the run in any regime.
    """
    made: dict[str, Path] = {}
    if not models:
        return made
    for model in models:
        names = {candidates.variant(model, regime) for regime in candidates.REGIMES["both"]}
        if not names & set(folders):
            there = ", ".join(folders)
            raise DataError(f"fused names {model!r}, but the candidates are {there}")
    for regime in candidates.REGIMES["both"]:
        names = [candidates.variant(model, regime) for model in models]
        if not set(names) <= set(folders):
            continue
        members = [Exported(folders[name], threads) for name in names]
        fits = [member.manifest_["fit"] for member in members]
        parameters = {}
        for model, fit in zip(models, fits, strict=True):
            parameters[model] = fit["parameters"]
        fusion = Fusion(parameters, seed=fits[0]["seed"], threads=threads)
        fitted = candidates.fit(fusion, split, regime, fitted=members)
        name = candidates.variant("fusion", regime)
        made[name] = candidates.write(run_dir, name, fitted, split)
    return made
