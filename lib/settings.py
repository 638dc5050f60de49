"""What a run was asked for: dataset, parameters, sweeps; and the jobs that follow from it, every name and type checked."""

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lib.stages import PIPELINE_OWNED, Refused, Stage, convert, find, nearest, present, read_parameters

KEYS = ("dataset", "raw", "parameters", "sweep")


@dataclass(frozen=True)
class Settings:
    """What `run.yaml` holds.

    Parameters
    ----------
    dataset : str, a name or the path of a description; empty: creditcard if it can be had, else simulated
    raw : str, the raw file; empty: where the description says
    parameters : dict such as {"seed": 1, "04_autoencoder.latent": 8}
    sweep : dict such as {"04_autoencoder.latent": [4, 8, 16]}
    """

    dataset: str = ""
    raw: str = ""
    parameters: dict = field(default_factory=dict)
    sweep: dict = field(default_factory=dict)

    @classmethod
    def read(cls, path):
        """From a YAML file; a stage's parameters may stand in a block of their own. Refused if it cannot be used."""
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise Refused(f"--config {path} cannot be read: {' '.join(str(error).split())}") from error
        if not isinstance(content, dict):
            raise Refused(f"--config {path} holds no `key: value` lines; its keys are {', '.join(KEYS)}.")
        for key in content:
            if key not in KEYS:
                raise Refused(f"--config {path}: {nearest(str(key), KEYS, 'key')}")
        content = {key: value for key, value in content.items() if value is not None}
        for key in ("parameters", "sweep"):
            content[key] = _flat(content.get(key, {}), f"--config {path}: {key}")
        return cls(**content)

    def write(self, path):
        """As YAML that `read` understands and people can edit."""
        content = {"dataset": self.dataset, "raw": self.raw, "parameters": self.parameters, "sweep": self.sweep}
        Path(path).write_text(
            yaml.safe_dump({k: v for k, v in content.items() if v}, sort_keys=False), encoding="utf-8"
        )


def _flat(mapping, where):
    if not isinstance(mapping, dict):
        raise Refused(f"{where} holds {mapping!r}; it has to be `name: value` lines.")
    flat = {}
    for key, value in mapping.items():
        inner = value.items() if isinstance(value, dict) else [(None, value)]
        flat |= {f"{key}.{name}" if name else str(key): v for name, v in inner}
    return flat


@dataclass(frozen=True)
class Job:
    """One notebook to execute once: a stage, or one value of a sweep over it.

    `name` is the stage's, `04_autoencoder@latent=4` in a sweep; `parameters` are all but those that the pipeline sets;
    `accepts` are the names of all parameters that the notebook has.
    """

    stage: Stage
    notebook: Path
    parameters: dict
    accepts: frozenset
    variant: str = ""

    @property
    def name(self):
        return self.stage.name + self.variant

    @property
    def candidate(self):
        return self.stage.short + self.variant

    @property
    def outputs(self):
        """Patterns of the files it writes: what the table says, and what every notebook leaves in the run's folder."""
        own = f"run/models/{self.stage.short}"
        models = (f"run/models/{self.candidate}", f"run/models/{self.candidate}[@,]train_on=*")
        named = [p for p in self.stage.writes if p not in (own, "registry")]
        common = (f"run/notebooks/{self.name}.*", f"run/figures/{self.name}-*", f"run/stages/{self.name}")
        return (*named, *(models if own in self.stage.writes else ()), *common)


def jobs(root, settings, chosen, defaults=()):
    """The jobs of all stages that are present, in order -> list of Job.

    Parameters
    ----------
    chosen : stages whose notebooks a plain `-p name value` is meant for
    defaults : {name: value} that replace the notebooks' defaults, such as the number of rows

    Raises
    ------
    Refused
        An unknown stage or parameter (with the nearest name), a value of the wrong type, a sweep that cannot be.
    """
    stages = present(root)
    known = {s: read_parameters(_notebook(root, s)) for s in stages}
    values = {s: {n: p.default for n, p in known[s].items() if n not in PIPELINE_OWNED} for s in stages}
    for stage in stages:
        values[stage] |= {n: v for n, v in dict(defaults).items() if n in values[stage]}
    for key in sorted(settings.parameters, key=lambda key: "." in key):  # the particular overrides the general
        for stage, name in _targets(key, stages, chosen, known):
            values[stage][name] = convert(known[stage][name], settings.parameters[key], f"-p {key}")
    for stage in stages:
        if "split_dir" in known[stage]:  # how many rows were simulated is then the split's affair
            values[stage].pop("rows", None)
    result = []
    for stage in stages:
        for variant, extra in _variants(stage, settings.sweep, stages, known):
            accepts = frozenset(known[stage])
            result.append(Job(stage, _notebook(root, stage), values[stage] | extra, accepts, variant))
    return result


def _notebook(root, stage):
    return Path(root) / "notebooks" / f"{stage.name}.ipynb"


def _targets(key, stages, chosen, known):
    stage_name, _, name = str(key).rpartition(".")
    if name in PIPELINE_OWNED:
        raise Refused(f"-p {key}: {name} is set by the pipeline; it follows from {PIPELINE_OWNED[name]}.")
    among = [find(stage_name, stages)] if stage_name else chosen
    found = [(stage, name) for stage in among if name in known[stage]]
    if not found:
        names = {n for stage in among for n in known[stage]} - set(PIPELINE_OWNED)
        raise Refused(nearest(name, names, f"parameter of {', '.join(s.name for s in among)}"))
    return found


def _variants(stage, sweep, stages, known):
    """Every combination of the stage's swept values -> [("@latent=4", {"latent": 4}), …]; [("", {})] without any."""
    axes = []
    for key, values in sweep.items():
        ((swept, name),) = _targets(key, stages, (), known) if "." in key else [(None, key)]
        if swept is None:
            raise Refused(f"--sweep {key}: name the stage as well, such as 04_autoencoder.{key}.")
        if "candidate" not in known[swept]:
            raise Refused(f"--sweep {key}: {swept.name} writes no candidate of a comparison.")
        if not isinstance(values, list) or not values:
            raise Refused(f"--sweep {key}: a list of values belongs there, {values!r} is none.")
        if swept == stage:
            axes.append([(name, convert(known[stage][name], v, f"--sweep {key}")) for v in values])
    combinations = [dict(c) for c in itertools.product(*axes)]
    named = {_label(c): c for c in combinations}
    if len(named) < len(combinations):
        raise Refused(f"--sweep of {stage.name}: a value is given twice.")
    return list(named.items())


def _label(values):
    text = ",".join(f"{name}={value}" for name, value in values.items())
    return "@" + re.sub(r"[^\w.,=+-]", "_", text) if text else ""
