"""What a run was asked for, and the jobs that follow from it, every name and type checked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from lib.data.budgets import UNITS
from lib.errors import Refused, unknown
from lib.pipeline.parameters import PIPELINE_OWNED, Parameter, convert, read_parameters
from lib.pipeline.stages import Stage, find, notebook, present

KEYS = ("dataset", "raw", "parameters", "sweep")
# a person's word for one run: never inherited, and no reason to run again once it is not given
ONCE = ("09_comparison.accept", "10_export.replace")


@dataclass(frozen=True)
class Settings:
    """What `run.yaml` holds.

    Parameters
    ----------
    dataset : a name or the path of a description; empty: creditcard, else simulated
    raw : the raw file; empty: where the description says
    parameters : such as {"seed": 1, "04_autoencoder.latent": 8}; the particular overrides the
        general
    sweep : such as {"04_autoencoder.latent": [4, 8, 16]}
    """

    dataset: str = ""
    raw: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    sweep: dict[str, list] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path | str) -> Settings:
        """Read a YAML file, in which a stage's parameters may stand in a block of their own.

        Raises Refused if it cannot be read, or holds an unknown key or a value of the wrong type.
        """
        content = _mapping(_yaml(path), str(path))
        for key in content:
            if key not in KEYS:
                raise Refused(f"{path}: {unknown('key', key, KEYS)}")
        for key in ("dataset", "raw"):
            value = content.get(key) or ""
            if not isinstance(value, str):
                raise Refused(f"{path}: {key} is {value!r}; expected text.")
        return cls(
            dataset=content.get("dataset") or "",
            raw=content.get("raw") or "",
            parameters=_flat(content.get("parameters") or {}, f"{path}: parameters"),
            sweep=_flat(content.get("sweep") or {}, f"{path}: sweep"),
        )

    def write(self, path: Path | str) -> None:
        """Write YAML that `read` understands and people can edit."""
        content = {key: getattr(self, key) for key in KEYS if getattr(self, key)}
        Path(path).write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")

    def overlaid(self, other: Settings) -> Settings:
        """Return these settings where `other` says nothing.

        A plain `seed` of `other` overrides every stage's own seed here, and a budget in one unit
        the same budget in the other.
        """
        plain = {key for key in other.parameters if "." not in key}
        replaced = {in_other_unit(key) for key in other.parameters}
        plain |= {key for key in replaced if "." not in key}

        def kept(entries: dict) -> dict:
            return {
                key: value
                for key, value in entries.items()
                if key.rpartition(".")[2] not in plain and key not in replaced
            }

        return Settings(
            dataset=other.dataset or self.dataset,
            raw=other.raw or self.raw,
            parameters=kept(self.parameters) | other.parameters,
            sweep=kept(self.sweep) | other.sweep,
        )


def in_other_unit(key: str) -> str:
    """Return `09_comparison.reviews_per_day` for `09_comparison.alert_budget`, and back.

    Empty for anything that is no budget.
    """
    stage, dot, name = key.rpartition(".")
    if name not in UNITS:
        return ""
    [other] = set(UNITS) - {name}
    return f"{stage}{dot}{other}"


def _yaml(path: Path | str) -> Any:
    try:
        text = Path(path).read_text(encoding="utf-8")
        return yaml.safe_load(text) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise Refused(f"{path} cannot be read: {reason}") from error


def _mapping(content: Any, where: str) -> dict[str, Any]:
    if not isinstance(content, dict):
        raise Refused(f"{where} holds {content!r}; expected lines such as `name: value`.")
    return {str(key): value for key, value in content.items()}


def _flat(content: Any, where: str) -> dict[str, Any]:
    """Return {"04_autoencoder.latent": 8} for {"04_autoencoder": {"latent": 8}}."""
    flat = {}
    for key, value in _mapping(content, where).items():
        if not isinstance(value, dict):
            flat[key] = value
            continue
        for name, inner in value.items():
            flat[f"{key}.{name}"] = inner
    return flat


@dataclass(frozen=True)
class Job:
    """One notebook to be executed once: a stage, or one combination of the values swept over it.

    Parameters
    ----------
    parameters : all but those that the pipeline sets
    accepts : the names of all parameters that the notebook has
    variant : empty, or such as `@latent=4`
    """

    stage: Stage
    notebook: Path
    parameters: dict[str, Any]
    accepts: frozenset[str]
    variant: str = ""

    @property
    def name(self) -> str:
        """`04_autoencoder`, or `04_autoencoder@latent=4`."""
        return self.stage.name + self.variant

    @property
    def candidate(self) -> str:
        """`autoencoder`, or `autoencoder@latent=4`."""
        return self.stage.short + self.variant

    @property
    def outputs(self) -> tuple[str, ...]:
        """Patterns of the files it writes: the table's, and what every notebook leaves in a run."""
        patterns = []
        own_candidate = f"run/models/{self.stage.short}"
        for place in self.stage.writes:
            if place == own_candidate:  # one for each regime and variant
                patterns += [
                    f"run/models/{self.candidate}",
                    f"run/models/{self.candidate}[@,]train_on=*",
                ]
            elif place != "registry":  # no files
                patterns.append(place)
        return (
            *patterns,
            f"run/notebooks/{self.name}.*",
            f"run/figures/{self.name}-*",
            f"run/stages/{self.name}",
        )


Known = dict[Stage, dict[str, Parameter]]  # the parameters of each stage's notebook


def jobs(root: Path, settings: Settings, among: Sequence[Stage] | None = None) -> list[Job]:
    """Return the jobs of all stages that are present, in order.

    Parameters
    ----------
    among : stages one of whose notebooks has to have a parameter that is given without a stage;
        None for all

    Raises
    ------
    Refused
        An unknown stage or parameter (with the nearest name), a value of the wrong type, or a sweep
        over something that is no candidate.
    """
    stages = present(root)
    among = stages if among is None else among
    known = {stage: read_parameters(notebook(root, stage)) for stage in stages}
    values = _values(settings, stages, among, known)
    axes = _axes(settings.sweep, stages, known)
    result = []
    for stage in stages:
        for variant, swept in _combinations(axes.get(stage, [])).items():
            job = Job(
                stage=stage,
                notebook=notebook(root, stage),
                parameters=values[stage] | swept,
                accepts=frozenset(known[stage]),
                variant=variant,
            )
            result.append(job)
    return result


def _values(
    settings: Settings, stages: Sequence[Stage], among: Sequence[Stage], known: Known
) -> dict[Stage, dict[str, Any]]:
    """Return the value of every parameter of every stage, but for those that are swept over."""
    values = {stage: _defaults(known[stage]) for stage in stages}
    for key, value in settings.parameters.items():
        twin = settings.parameters.get(in_other_unit(key))
        if _is_given(value) and _is_given(twin):
            raise Refused(
                f"-p {key} {value} and -p {in_other_unit(key)} {twin} are the same budget in two "
                "units; leave one out."
            )
    the_particular_last = sorted(settings.parameters, key=lambda key: "." in key)
    for key in the_particular_last:
        for stage, name in _meant(key, stages, among, known):
            parameter = known[stage][name]
            value = convert(parameter, settings.parameters[key], f"-p {key}")
            values[stage][name] = value
            twin = in_other_unit(name)
            if value and twin in values[stage]:  # of two units the last word decides
                values[stage][twin] = known[stage][twin].default
    for stage in stages:
        if "split_dir" in known[stage]:  # how many rows were simulated is the split's affair
            values[stage].pop("rows", None)
    return values


def _is_given(value: Any) -> bool:
    """Return whether a budget is given: 0, as text too, stands for the description's."""
    return value is not None and str(value) not in ("0", "0.0")


def _defaults(parameters: dict[str, Parameter]) -> dict[str, Any]:
    """Return what a run takes where nothing is said.

    A notebook's own default of `rows` is small, for trying it out; a run takes as many as the
    description says.
    """
    values = {name: p.default for name, p in parameters.items() if name not in PIPELINE_OWNED}
    if "rows" in values:
        values["rows"] = 0
    return values


def resolved(asked: Settings, all_jobs: Sequence[Job], dataset: str, raw: str) -> Settings:
    """Return settings that leave nothing open: dataset, every job's parameters, swept values."""
    stages = [job.stage for job in all_jobs]
    sweep = {}
    for key in asked.sweep:
        stage_name, _, name = key.rpartition(".")
        stage = find(stage_name, stages)
        unique: list[Any] = []
        for job in all_jobs:
            if job.stage == stage and job.parameters[name] not in unique:
                unique.append(job.parameters[name])
        sweep[f"{stage.name}.{name}"] = unique
    parameters = {}
    for job in all_jobs:
        for name, value in job.parameters.items():
            key = f"{job.stage.name}.{name}"
            if key not in sweep:
                parameters[key] = value
    return Settings(dataset, raw, parameters, sweep)


def _meant(
    key: str, stages: Sequence[Stage], among: Sequence[Stage], known: Known
) -> list[tuple[Stage, str]]:
    """Return the (stage, parameter) pairs that `04_autoencoder.latent` or `seed` stands for."""
    stage_name, _, name = key.rpartition(".")
    if name in PIPELINE_OWNED:
        cause = PIPELINE_OWNED[name]
        raise Refused(f"-p {key}: {name} is set by the pipeline; it follows from {cause}.")
    if stage_name:
        among = [find(stage_name, stages)]
    pairs = []
    for stage in among:
        if name in known[stage]:
            pairs.append((stage, name))
    if pairs:
        return pairs
    others = [stage.name for stage in stages if stage not in among and name in known[stage]]
    if others and not stage_name:
        raise Refused(
            f"-p {key}: no notebook that is asked for has it, but {' and '.join(others)} "
            f"{'has' if len(others) == 1 else 'have'}. Leave it out, or ask for that one as well."
        )
    names: set[str] = set()
    for stage in among:
        names.update(known[stage])
    names.difference_update(PIPELINE_OWNED)
    what = f"{among[0].name} parameter" if len(among) == 1 else "parameter"
    raise Refused(unknown(what, name, names))


def _axes(sweep: dict, stages: Sequence[Stage], known: Known) -> dict[Stage, list]:
    """Return the swept values, converted: {stage: [(name, values), …]}."""
    axes: dict[Stage, list] = {}
    for key, values in sweep.items():
        where = f"--sweep {key}"
        if "." not in key:
            raise Refused(f"{where}: name the stage as well, such as 04_autoencoder.{key}.")
        ((stage, name),) = _meant(key, stages, (), known)
        if "candidate" not in known[stage]:
            raise Refused(f"{where}: {stage.name} makes no candidate of a comparison.")
        if not isinstance(values, list) or not values:
            raise Refused(f"{where}: expected a list of values, got {values!r}.")
        converted = [convert(known[stage][name], value, where) for value in values]
        axes.setdefault(stage, []).append((name, converted))
    return axes


def _combinations(axes: list[tuple[str, list]]) -> dict[str, dict[str, Any]]:
    """Return every combination of swept values under its name.

    {"@latent=4": {"latent": 4}, …}; {"": {}} where nothing is swept.
    """
    names = [name for name, _ in axes]
    grid = [values for _, values in axes]
    combinations = {}
    for chosen in itertools.product(*grid):
        swept = dict(zip(names, chosen, strict=True))
        combinations[_label(swept)] = swept
    return combinations


def _label(swept: dict[str, Any]) -> str:
    """Return `@latent=4,seed=1`, fit for the name of a file."""
    if not swept:
        return ""
    text = ",".join(f"{name}={value}" for name, value in swept.items())
    return "@" + re.sub(r"[^\w.,=+-]", "_", text)
