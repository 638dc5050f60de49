"""What a run was asked for, and the jobs that follow from it, every name and type checked."""

import itertools
import re
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lib.pipeline.stages import (
    PIPELINE_OWNED,
    Refused,
    Stage,
    convert,
    find,
    nearest,
    notebook,
    present,
    read_parameters,
)

KEYS = ("dataset", "raw", "parameters", "sweep")


@dataclass(frozen=True)
class Settings:
    """What `run.yaml` holds.

    Parameters
    ----------
    dataset : str, a name or the path of a description; empty: creditcard if it can be had, else simulated
    raw : str, the raw file; empty: where the description says
    parameters : dict such as {"seed": 1, "04_autoencoder.latent": 8}; the particular overrides the general
    sweep : dict such as {"04_autoencoder.latent": [4, 8, 16]}
    """

    dataset: str = ""
    raw: str = ""
    parameters: dict = field(default_factory=dict)
    sweep: dict = field(default_factory=dict)

    @classmethod
    def read(cls, path):
        """From a YAML file, where a stage's parameters may stand in a block of their own; Refused if it is no such."""
        try:
            content = yaml.safe_load(Path(path).read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
            raise Refused(f"{path} cannot be read: {' '.join(str(error).split())}") from error
        content = _lines(content, path)
        for key in content:
            if key not in KEYS:
                raise Refused(f"{path}: {nearest(key, KEYS, 'key')}")
        for key in ("dataset", "raw"):
            if not isinstance(content.get(key) or "", str):
                raise Refused(f"{path}: {key} is {content[key]!r}, and that is no text.")
        flat = {key: _flat(content.get(key) or {}, f"{path}: {key}") for key in ("parameters", "sweep")}
        return cls(content.get("dataset") or "", content.get("raw") or "", **flat)

    def write(self, path):
        """As YAML that `read` understands and people can edit."""
        content = {key: value for key in KEYS if (value := getattr(self, key))}
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def overlaid(self, other):
        """These settings where `other` says nothing; a plain `seed` of `other` overrides every stage's own here."""
        plain = {key for key in other.parameters if "." not in key}
        kept = {k: v for k, v in self.parameters.items() if k.rpartition(".")[2] not in plain}
        return Settings(
            other.dataset or self.dataset,
            other.raw or self.raw,
            kept | other.parameters,
            {k: v for k, v in self.sweep.items() if k.rpartition(".")[2] not in plain} | other.sweep,
        )


def _lines(content, where):
    if not isinstance(content, dict):
        raise Refused(f"{where} holds {content!r}; it has to be `name: value` lines.")
    return {str(key): value for key, value in content.items()}


def _flat(content, where):
    flat = {}
    for key, value in _lines(content, where).items():
        flat |= {f"{key}.{name}": v for name, v in value.items()} if isinstance(value, dict) else {key: value}
    return flat


@dataclass(frozen=True)
class Job:
    """One notebook to be executed once: a stage, or one combination of the values swept over it.

    `parameters` are all but those that the pipeline sets, `accepts` the names of all that the notebook has, `variant`
    is empty or such as `@latent=4`.
    """

    stage: Stage
    notebook: Path
    parameters: dict
    accepts: frozenset
    variant: str = ""

    @property
    def name(self):
        """`04_autoencoder`, or `04_autoencoder@latent=4`."""
        return self.stage.name + self.variant

    @property
    def candidate(self):
        """`autoencoder`, or `autoencoder@latent=4`."""
        return self.stage.short + self.variant

    @property
    def outputs(self):
        """Patterns of the files it writes: the table's, and what every notebook leaves in the run's folder."""
        model = f"run/models/{self.stage.short}"
        candidates = (f"run/models/{self.candidate}", f"run/models/{self.candidate}[@,]train_on=*")
        listed = [p for place in self.stage.writes for p in (candidates if place == model else (place,))]
        common = (f"run/notebooks/{self.name}.*", f"run/figures/{self.name}-*", f"run/stages/{self.name}")
        return (*(p for p in listed if p != "registry"), *common)


def jobs(root, settings, among=None):
    """The jobs of all stages that are present -> list of Job, in order.

    Parameters
    ----------
    among : stages one of whose notebooks has to have a parameter that is given without a stage; None for all

    Raises
    ------
    Refused
        An unknown stage or parameter (with the nearest name), a value of the wrong type, a sweep that cannot be.
    """
    stages = present(root)
    among = stages if among is None else among
    known = {s: read_parameters(notebook(root, s)) for s in stages}
    values = {s: {n: p.default for n, p in known[s].items() if n not in PIPELINE_OWNED} for s in stages}
    for stage in stages:
        values[stage] |= {"rows": 0} if "rows" in known[stage] else {}  # as the description says, not a notebook's few
    for key in sorted(settings.parameters, key=lambda key: "." in key):
        for stage, name in _meant(key, stages, among, known):
            values[stage][name] = convert(known[stage][name], settings.parameters[key], f"-p {key}")
    axes = _axes(settings.sweep, stages, known)
    result = []
    for stage in stages:
        if "split_dir" in known[stage]:  # how many rows were simulated is the split's affair
            values[stage].pop("rows", None)
        for variant, swept in _combinations(axes.get(stage, [])).items():
            every = frozenset(known[stage])
            result.append(Job(stage, notebook(root, stage), values[stage] | swept, every, variant))
    return result


def resolved(asked, jobs, dataset, raw):
    """Settings that say all of it: the dataset, every parameter of every job, the swept values in their types."""
    stages = [job.stage for job in jobs]
    sweep, parameters = {}, {}
    for key in asked.sweep:
        stage, (_, _, name) = find(key.rpartition(".")[0], stages), key.rpartition(".")
        values = [job.parameters[name] for job in jobs if job.stage == stage]
        sweep[f"{stage.name}.{name}"] = [v for i, v in enumerate(values) if v not in values[:i]]
    for job in jobs:
        parameters |= {f"{job.stage.name}.{name}": value for name, value in job.parameters.items()}
    return Settings(dataset, raw, {k: v for k, v in parameters.items() if k not in sweep}, sweep)


def _meant(key, stages, among, known):
    """The (stage, parameter) pairs that a key such as `04_autoencoder.latent` or `seed` stands for."""
    stage_name, _, name = key.rpartition(".")
    if name in PIPELINE_OWNED:
        raise Refused(f"-p {key}: {name} is set by the pipeline; it follows from {PIPELINE_OWNED[name]}.")
    among = [find(stage_name, stages)] if stage_name else among
    if pairs := [(stage, name) for stage in among if name in known[stage]]:
        return pairs
    names = {n for stage in among for n in known[stage]} - set(PIPELINE_OWNED)
    raise Refused(nearest(name, names, f"{among[0].name} parameter" if len(among) == 1 else "parameter"))


def _axes(sweep, stages, known):
    """The swept values, converted -> {stage: [(name, values), …]}."""
    axes = {}
    for key, values in sweep.items():
        where = f"--sweep {key}"
        if "." not in key:
            raise Refused(f"{where}: name the stage as well, such as 04_autoencoder.{key}.")
        ((stage, name),) = _meant(key, stages, (), known)
        if "candidate" not in known[stage]:
            raise Refused(f"{where}: {stage.name} makes no candidate of a comparison.")
        if not isinstance(values, list) or not values:
            raise Refused(f"{where}: a list of values belongs there, and {values!r} is none.")
        axes.setdefault(stage, []).append((name, [convert(known[stage][name], v, where) for v in values]))
    return axes


def _combinations(axes):
    """Every combination of swept values under its name -> {"@latent=4": {"latent": 4}, …}; {"": {}} without any."""
    names, values = [name for name, _ in axes], [values for _, values in axes]
    combinations = (dict(zip(names, chosen, strict=True)) for chosen in itertools.product(*values))
    return {_label(swept): swept for swept in combinations}


def _label(swept):
    text = ",".join(f"{name}={value}" for name, value in swept.items())
    return "@" + re.sub(r"[^\w.,=+-]", "_", text) if text else ""
