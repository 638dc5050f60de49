"""Keep runs and models in MLflow; the only file that imports it, and only when used.

The import takes seconds.
A pipeline is a parent run with a child run for each stage and one for each candidate. Those of
candidates have few figures, under the same names, so that they compare; what else a notebook found
is in its metrics.json. A candidate's model is an MLflow ONNX model whose folder carries the
candidate's own files beside MLflow's, byte for byte, so that the registry alone is enough to export
it.
"""

from __future__ import annotations

import functools
import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from importlib.metadata import version as installed
from pathlib import Path
from typing import Any

import numpy as np

from lib import bundle
from lib.errors import BundleError, TrackingError
from lib.files import read_json
from lib.registry import compared, descriptions, mlflow_store
from lib.registry.mlflow_store import Champion, Version, flatten, in_a_sentence
from lib.registry.turns import turn

# variable in which the pipeline tells its notebooks the parent run's id
PARENT = "PIPELINE_MLFLOW_RUN"
CHAMPION, PREVIOUS = "champion", "previous"
ANY = "any"  # champion whatsoever
MAX_DIGEST = 36  # characters that MLflow takes
# MLflow's pages then begin with the table of runs
KIND = {"mlflow.experimentKind": "custom_model_development"}
FILES = (
    "model.onnx",
    "explain.onnx",
    "model_card.md",
    "manifest.json",
    "metrics.json",
    "parity.npz",
)


def _client():
    """(MLflow's client, experiment id) of the store that `tracking_uri` names now."""
    mlflow_store.relocate()
    mlflow_store.check()
    with mlflow_store.quiet():
        return _connect(mlflow_store.tracking_uri(), mlflow_store.registry_uri())


@functools.lru_cache(maxsize=1)  # one at a time: MLflow's registry asks the URI that was set last
def _connect(uri, registry_uri):
    import mlflow

    try:
        mlflow.set_tracking_uri(uri)
        client = mlflow.MlflowClient()
        experiment = client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    except mlflow.exceptions.MlflowException as error:
        raise TrackingError(mlflow_store.unreachable(uri, error)) from error
    if experiment is None:
        path = mlflow_store.database(uri)
        # a tracking server decides itself where artifacts lie
        place = mlflow_store.artifacts(path) if path else None
        try:
            return client, client.create_experiment(mlflow_store.EXPERIMENT, place, KIND)
        except mlflow.exceptions.MlflowException as error:
            # another project on the same new store was faster
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        experiment = client.get_experiment_by_name(mlflow_store.EXPERIMENT)
    # somebody deleted it on MLflow's pages: its name is taken all the same
    if experiment.lifecycle_stage == "deleted":
        client.restore_experiment(experiment.experiment_id)
    return client, experiment.experiment_id


def _log(client, run_id, params, metrics, model_id=None):
    from mlflow.entities import Metric, Param

    now = round(time.time() * 1000)
    entries = []
    for name, value in params.items():
        # the characters that MLflow takes in the name of a parameter
        allowed = re.sub(r"[^\w\-. /]", "_", name)
        entries.append(Param(allowed, str(value)))
    numbers = []
    for name, value in flatten(metrics).items():
        numbers.append(Metric(name, value, now, 0, model_id, run_id=run_id))
    # in pieces: MLflow's limits for one request
    for i in range(0, len(entries), 100):
        client.log_batch(run_id, params=entries[i : i + 100])
    for i in range(0, len(numbers), 1000):
        client.log_batch(run_id, metrics=numbers[i : i + 1000])


def _start(
    name, tags=None, description="", parent_id="", started_s=None, program="run_pipeline.py"
):
    client, experiment = _client()
    source = "NOTEBOOK" if program.endswith(".ipynb") else "LOCAL"
    ours = {
        "mlflow.note.content": description,
        "mlflow.source.name": program,
        "mlflow.source.type": source,
    }
    tags = {key: str(value) for key, value in (tags or {}).items()} | ours
    if parent_id:
        tags["mlflow.parentRunId"] = parent_id
    commit = mlflow_store.git_commit()
    if commit:
        tags["mlflow.source.git.commit"] = commit
    start_ms = round((started_s or time.time()) * 1000)
    run = client.create_run(experiment, start_ms, tags, name)
    return run.info.run_id


@in_a_sentence
def start_pipeline(
    run_name: str,
    tags: Mapping[str, Any] | None = None,
    description: str = "",
    parent_id: str = "",
) -> str:
    """Start the parent run, or take up `parent_id` if that run is still there; return its id.

    tags : dict such as dataset and source; description : Markdown.
    """
    client, experiment = _client()
    # by search: asking for a run that is gone is an error, and people do delete runs
    if parent_id and client.search_runs([experiment], f"attributes.run_id = '{parent_id}'"):
        _end_interrupted(client, experiment, parent_id)
        client.update_run(parent_id, status="RUNNING")
        return parent_id
    return _start(run_name, {"kind": "pipeline", **(tags or {})}, description)


def _end_interrupted(client, experiment, parent_id):
    """End what was being logged when an earlier process, or the server, died.

    Those stages are logged anew. Nothing is deleted: a copy of the project's folder may be at work
    on the same run.
    """
    from mlflow.entities import LoggedModelStatus

    children = f"tags.`mlflow.parentRunId` = '{parent_id}' AND attributes.status = 'RUNNING'"
    interrupted = [run.info.run_id for run in client.search_runs([experiment], children)]
    for run_id in [parent_id, *interrupted]:
        of_run = f"source_run_id = '{run_id}'"
        for model in client.search_logged_models([experiment], of_run):
            if model.status == LoggedModelStatus.PENDING:
                client.finalize_logged_model(model.model_id, LoggedModelStatus.FAILED)
    for run_id in interrupted:
        client.set_terminated(run_id, "KILLED")


@in_a_sentence
def finish_pipeline(
    run_id: str,
    status: str = "FINISHED",
    metrics: Mapping[str, Any] | None = None,
    description: str = "",
) -> None:
    """End the parent run; MLflow's pages show its candidates from now on, if it has compared any.

    status : FINISHED, FAILED or KILLED; description : Markdown
    metrics : the champion's entry in the run's metrics.json, see `compared.figures`
    """
    client, experiment = _client()
    if metrics:
        _log(client, run_id, {}, compared.figures(metrics))
        client.set_experiment_tag(experiment, compared.VIEW_TAG, compared.view(run_id))
    if description:
        client.set_tag(run_id, "mlflow.note.content", description[: descriptions.LIMIT])
    client.set_terminated(run_id, status)


@in_a_sentence
def describe(run_id: str, description: str) -> None:
    """Replace the description of a run, Markdown; nothing happens if the run is gone."""
    client, experiment = _client()
    if client.search_runs([experiment], f"attributes.run_id = '{run_id}'"):
        client.set_tag(run_id, "mlflow.note.content", description[: descriptions.LIMIT])


@in_a_sentence
def log_stage(  # noqa: PLR0913 - all that a stage has left
    parent_id: str,
    stage: str,
    *,
    params: Mapping[str, Any] | None = None,
    metrics: Path | None = None,
    figures: Iterable[Path] = (),
    notebooks: Iterable[Path] = (),
    cards: Iterable[Path] = (),
    candidates: Mapping[Path, str] | None = None,
    tags: Mapping[str, Any] | None = None,
    description: str = "",
    status: str = "FINISHED",
    seconds: float = 0.0,
    is_new: bool = True,
) -> str:
    """Log one stage as a child run, from the files that it left; return the child's id.

    Parameters
    ----------
    parent_id : the pipeline's run; empty for a run of its own
    params : dict of plain values
    metrics, figures, notebooks, cards : files to attach (the stage's metrics.json; images; the
        executed .ipynb and .html; Markdown)
    candidates : {folder: label}; see `log_candidate`
    tags : dict, such as dataset and source; description : Markdown
    status : FINISHED or FAILED; seconds : how long it took; it has just ended
    is_new : whether it has run now; the models of an earlier run have been logged then
    """
    client, _ = _client()
    end_s = time.time()
    notebook = stage.partition("@")[0]
    run_id = _start(
        stage,
        {"kind": "notebook", "stage": stage, **(tags or {})},
        description,
        parent_id,
        started_s=end_s - seconds,
        program=f"notebooks/{notebook}.ipynb",
    )
    _log(client, run_id, params or {}, {})
    if metrics is not None and metrics.is_file():
        client.log_artifact(run_id, str(metrics))
    for place, paths in (("figures", figures), ("notebook", notebooks), ("cards", cards)):
        for path in paths:
            client.log_artifact(run_id, str(path), place)
    for folder, label in (candidates or {}).items():
        log_candidate(parent_id or run_id, folder, label, tags=tags, is_new=is_new)
    client.set_terminated(run_id, status, round(end_s * 1000))
    return run_id


@in_a_sentence
def log_candidate(
    parent_id: str,
    folder: Path,
    label: str = "",
    *,
    tags: Mapping[str, Any] | None = None,
    is_new: bool = True,
) -> str:
    """Log a candidate as a child run with its model, or add what is known by now; return its id.

    Parameters
    ----------
    parent_id : the run it belongs to
    folder : of the candidate; its metrics.json has what it is compared by
    label : its name for people, which the run gets; by default the candidate's own
    tags : besides those that follow from the manifest
    is_new : False leaves the model out: an earlier run has logged it
    """
    client, _ = _client()
    folder = Path(folder)
    manifest = read_json(folder / "manifest.json")
    run = _run_of_candidate(client, parent_id, manifest["model"])
    if run is None:
        run = _start_candidate(client, manifest, label, tags, parent_id)
    models = _whole_models(client, run)
    if is_new and not models:
        models = [_log_model(run, folder)]
    entry = read_json(folder / "metrics.json") or manifest.get("metrics", {})
    entry.setdefault("bytes", (folder / "model.onnx").stat().st_size)
    _log(client, run, {}, compared.figures(entry), models[0] if models else None)
    client.set_terminated(run)
    return run


def _run_of_candidate(client, parent_id, name):
    """Return the id of the run that a candidate has already in this parent; None without one."""
    _, experiment = _client()
    ours = f"tags.kind = 'candidate' AND tags.`mlflow.parentRunId` = '{parent_id}'"
    for run in client.search_runs([experiment], ours):
        if run.data.tags.get("candidate") == name:
            return run.info.run_id
    return None


def _start_candidate(client, manifest, label, tags, parent_id):
    """Start the run of a candidate, with what does not change any more: parameters, tags, data."""
    name = manifest["model"]
    fit = manifest["fit"]
    said = {
        "kind": "candidate",
        "candidate": name,
        "family": name.partition("@")[0],
        **{key: fit[key] for key in ("train_on", "labels_seen", "seed") if key in fit},
    }
    run_id = _start(label or name, (tags or {}) | said, parent_id=parent_id)
    _log(client, run_id, fit.get("parameters", {}), {})
    client.log_inputs(run_id, [_data_of(manifest)])
    return run_id


def _data_of(manifest):
    """Return the rows of a fit as MLflow names data: by name, digest and source."""
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.types import ColSpec, Schema

    dataset, fit = manifest["dataset"], manifest["fit"]
    columns = Schema([ColSpec("float", feature) for feature in manifest["features"]])
    data = Dataset(
        name=dataset["name"],
        digest=fit.get("split", "")[:MAX_DIGEST] or "unknown",
        source_type=dataset["source"],
        source=json.dumps({"source": dataset["source"], "split": fit.get("split", "")}),
        schema=json.dumps({"mlflow_colspec": columns.to_dict()}),
        profile=json.dumps({"num_rows": fit["n"]}),
    )
    return DatasetInput(data, [InputTag("mlflow.data.context", "reference")])


def _whole_models(client, run_id):
    """Return the ids of a run's models that have been logged to the end."""
    from mlflow.entities import LoggedModelStatus

    _, experiment = _client()
    found = client.search_logged_models([experiment], f"source_run_id = '{run_id}'")
    return [model.model_id for model in found if model.status == LoggedModelStatus.READY]


def _log_model(run_id, folder):
    """Log a candidate's folder as an MLflow ONNX model of this run; return its model id.

    No requirement is inferred and nothing is pickled; the candidate's files stay as they are, to
    the byte.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus

    client, experiment = _client()
    manifest = read_json(folder / "manifest.json")
    params = {key: str(value) for key, value in manifest["fit"].items()}
    model = client.create_logged_model(
        experiment, re.sub("[/:.%\"']", "_", manifest["model"]), run_id, params=params
    )
    with tempfile.TemporaryDirectory() as temporary:
        _save(folder, manifest, model, run_id, Path(temporary) / "model")
        client.log_model_artifacts(model.model_id, str(Path(temporary) / "model"))
    client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)
    client.log_outputs(run_id, [LoggedModelOutput(model.model_id, 0)])
    return model.model_id


def _save(folder, manifest, model, run_id, target):
    """Write MLflow's model folder, with the candidate's own bytes.

    MLflow serialises the graph anew; that one makes room for the original.
    """
    import mlflow.onnx
    import onnx
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    example = np.array([manifest["reference"]["median"]], dtype=np.float32)
    inputs = Schema([TensorSpec(example.dtype, (-1, example.shape[1]), "features")])
    output = Schema([TensorSpec(example.dtype, (-1,), "raw_score")])
    mlflow.onnx.save_model(
        onnx.load_model_from_string((folder / "model.onnx").read_bytes()),
        target,
        mlflow_model=Model(
            model.artifact_location, run_id, model_uuid=model.model_id, model_id=model.model_id
        ),
        signature=ModelSignature(inputs, output),
        input_example=example,
        pip_requirements=[
            f"{package}=={installed(package)}" for package in ("numpy", "onnx", "onnxruntime")
        ],
        onnx_execution_providers=["CPUExecutionProvider"],
        save_as_external_data=False,
    )
    for name in filter(lambda name: (folder / name).is_file(), FILES):
        shutil.copyfile(folder / name, target / name)


@in_a_sentence
def register(
    folder: Path,
    name: str,
    reasons: Iterable[str] = (),
    description: str = "",
    *,
    instead_of: str | None = ANY,
) -> str:
    """Make a candidate's folder the champion of `name`; return its version.

    The champion so far becomes `previous`. One process does this at a time.

    A model that the registry has already, by its bundle hash and with its files whole, makes no new
    version: the alias goes to that one, and a mark of withdrawal is taken off it.

    reasons : sentences of the gate; description : Markdown of the version, the reasons by default
    instead_of : version of the champion that the candidate was compared with, None where there was
        none
    The model is logged to the pipeline's run where there is one (variable PIPELINE_MLFLOW_RUN),
    else to its own.

    Raises
    ------
    TrackingError
        Another model than `instead_of` is the champion by now; nothing has changed.
    """
    client, _ = _client()
    manifest = read_json(Path(folder) / "manifest.json")
    said = (description or descriptions.version(manifest, reasons))[: descriptions.LIMIT]
    own = bundle.bundle_hash(folder)
    with turn(client, name):
        version = _whole_version(client, name, own)
        _check_champion(client, name, instead_of, version)
        if version is None:
            version = _new_version(client, Path(folder), name, said)
        elif said:
            client.update_model_version(name, version, said)
        _crown(client, name, version)
        client.update_registered_model(name, descriptions.registered(manifest, folder))
    return version


def _check_champion(client, name, expected, own):
    """Refuse a decision that was taken before the champion changed; `own` would be no change."""
    present = (_aliases(client, name) or {}).get(CHAMPION)
    if expected == ANY or present == expected or (present and present == own):
        return
    before = f"version {expected}" if expected else "no champion"
    now = f"version {present} is the champion" if present else "there is none"
    raise TrackingError(
        f"{name}: the candidates were compared with {before}, and {now} by now. Nothing was "
        "registered; the same command compares them again."
    )


def _new_version(client, folder, name, description):
    """Log the files and make a version of them, without any alias yet; return its number."""
    manifest = read_json(folder / "manifest.json")
    tags = descriptions.version_tags(manifest) | {"bundle_hash": bundle.bundle_hash(folder)}
    run_id = os.environ.get(PARENT) or _start(f"register {manifest['model']}", tags)
    model_id = _log_model(run_id, folder)
    _log(client, run_id, {}, compared.figures(manifest.get("metrics", {})), model_id)
    # the pipeline ends its own run
    if run_id != os.environ.get(PARENT):
        client.set_terminated(run_id)
    if _aliases(client, name) is None:
        client.create_registered_model(name)
    made = client.create_model_version(
        name, f"models:/{model_id}", run_id, tags, None, description, model_id=model_id
    )
    version = str(made.version)
    client.set_logged_model_tags(
        model_id, {"mlflow.modelVersions": json.dumps([{"name": name, "version": version}])}
    )
    return version


def _crown(client, name, version):
    """Let the alias `champion` point to a version, and note since when.

    Marks of withdrawal are taken off that model, whichever version has them.
    """
    before = (_aliases(client, name) or {}).get(CHAMPION)
    if before != version:
        # this alias first: whatever happens in between, there is a champion
        if before is not None:
            client.set_registered_model_alias(name, PREVIOUS, before)
        client.set_registered_model_alias(name, CHAMPION, version)
        client.set_model_version_tag(name, version, "champion_since", _now())
    versions = _versions(client, name)
    own = next(v.bundle_hash for v in versions if v.version == version)
    for same in versions:
        if same.withdrawn and (same.version == version or (own and same.bundle_hash == own)):
            client.delete_model_version_tag(name, same.version, "withdrawn")
            client.delete_model_version_tag(name, same.version, "withdrawn_at")


def _now():
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions(client, name) -> list[Version]:
    """Return all versions of a registered name, the newest first."""
    found = client.search_model_versions(f"name = '{name}'")
    versions = [mlflow_store.Version(name, str(v.version), dict(v.tags)) for v in found]
    return sorted(versions, key=lambda v: int(v.version), reverse=True)


def _hash(client, version):
    """Return the bundle hash of a version.

    Of one that is older than the tag it is computed from the files, and noted.
    Empty where the files can't be read: nothing is then known of the model, and no candidate is
    taken for it.
    """
    if version.bundle_hash:
        return version.bundle_hash
    present = _present(client, version)
    if present.lost:
        return ""
    found = bundle.bundle_hash(present.folder)
    client.set_model_version_tag(version.name, version.version, "bundle_hash", found)
    return found


def _whole_version(client, name, bundle_hash):
    """Return the newest version that is this model and has all its files; None without one."""
    for version in _versions(client, name):
        if _hash(client, version) == bundle_hash and not _present(client, version).lost:
            return version.version
    return None


@in_a_sentence
def withdrawn(name: str) -> dict[str, str]:
    """Return the models that were rolled back from, for the gate: {bundle hash: clause}."""
    client, _ = _client()
    marked = [version for version in _versions(client, name) if version.withdrawn]
    return {_hash(client, v): f"version {v.version} was withdrawn: {v.withdrawn}" for v in marked}


@in_a_sentence
def withdrawn_versions(name: str) -> dict[str, str]:
    """Return why versions were rolled back from: {version: reason}.

    Of a SQLite store `lib.registry.mlflow_store.withdrawn` says the same without MLflow's import.
    """
    client, _ = _client()
    return {v.version: v.withdrawn for v in _versions(client, name) if v.withdrawn}


@in_a_sentence
def serving(name: str, alias: str = CHAMPION) -> Version | None:
    """Return what the registry knows of the version behind an alias; None without one.

    No artifact is read. Of a SQLite store `lib.registry.mlflow_store.champion` says the same
    without MLflow's import.
    """
    client, _ = _client()
    version = (_aliases(client, name) or {}).get(alias)
    return next((v for v in _versions(client, name) if v.version == version), None)


def _aliases(client, name):
    """Return {alias: version} of a registered model; None if there is no such model."""
    found = client.search_registered_models(f"name = '{name}'")
    return {alias: str(version) for alias, version in found[0].aliases.items()} if found else None


class FilesLost(TrackingError):  # noqa: N818 - reads as what happened
    """The registry names a version whose files are not there any more."""


@in_a_sentence
def fetch(name: str, alias: str, folder: Path) -> str | None:
    """Put the files of the version behind an alias into `folder`, whole or not at all.

    Returns the version; None without one.
    """
    version = (_aliases(_client()[0], name) or {}).get(alias)
    if version is not None:
        _download(name, version, Path(folder))
    return version


def _download(name, version, folder):
    import mlflow

    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".fetch-") as temporary:
        whole = Path(
            mlflow.artifacts.download_artifacts(f"models:/{name}/{version}", dst_path=temporary)
        )
        if not (whole / "manifest.json").is_file():  # MLflow says nothing of files that are gone
            raise FilesLost(
                f"The files of {name}, version {version}, are gone from MLflow's store."
            )
        shutil.rmtree(folder, ignore_errors=True)
        whole.replace(folder)


@functools.cache
def _scratch():
    return tempfile.TemporaryDirectory(prefix="champion-")


@in_a_sentence
def champion(name: str) -> Champion | None:
    """Return the version behind the alias `champion`; None if there is none.

    One whose files are gone, or are not as they were written, has the sentence that says so as its
    `lost`.
    """
    found = serving(name)
    return found and _present(_client()[0], found)


def _present(client, version):
    """Return a version with a copy of its files, or with the reason why there is none."""
    run_id = client.get_model_version(version.name, version.version).run_id or ""
    folder = Path(tempfile.mkdtemp(dir=_scratch().name)) / "model"
    try:
        _download(version.name, version.version, folder)
        manifest = bundle.verify(folder)
    except (FilesLost, BundleError) as error:
        why = str(error)
        if not isinstance(error, FilesLost):
            why = f"The files of {version.name} are damaged: {error}"
        return Champion(
            version.name, version.version, run_id, descriptions.known(version), None, why
        )
    return Champion(version.name, version.version, run_id, manifest, folder)


@in_a_sentence
def rollback(name: str, why: str = "") -> str:
    """Swap `champion` and `previous`, and mark the version that was champion as withdrawn.

    Returns the version that is champion now.

    why : the reason that is kept with the mark; the time by default

    Raises
    ------
    TrackingError
        There is no previous version, or its files are gone; nothing has changed.
    """
    client, _ = _client()
    with turn(client, name):
        return _go_back(client, name, why)


def _go_back(client, name, why):
    aliases = _aliases(client, name) or {}
    if PREVIOUS not in aliases:
        raise TrackingError(f"{name} has no previous champion to go back to.")
    leaves = aliases[CHAMPION]
    returns = serving(name, PREVIOUS)
    present = _present(client, returns)
    if present.lost:
        raise TrackingError(f"{present.lost} There is nothing to go back to.")
    now = _now()
    client.set_model_version_tag(name, leaves, "withdrawn", why or f"rolled back at {now}")
    client.set_model_version_tag(name, leaves, "withdrawn_at", now)
    _crown(client, name, returns.version)
    client.update_registered_model(name, descriptions.registered(present.manifest, present.folder))
    return returns.version
