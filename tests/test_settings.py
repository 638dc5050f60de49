"""What is refused before anything runs, and the jobs that follow from what is asked."""

import shutil

import pytest
from conftest import ROOT

from lib.errors import Refused, unknown
from lib.pipeline.parameters import Parameter, convert, read_parameters
from lib.pipeline.settings import Settings, jobs
from lib.pipeline.stages import STAGES, choose, find, present, upstream

FIXTURES = ROOT / "tests" / "fixtures"
NOTEBOOKS = {
    "01_eda": "draws_figures",
    "02_split": "splits",
    "03_isolation_forest": "fits_a_candidate",
    "04_autoencoder": "fits_a_candidate",
    "09_comparison": "compares_candidates",
    "10_export": "exports",
    "12_stability": "draws_figures",
}


@pytest.fixture
def root(tmp_path):
    """A project's folder with fixture notebooks."""
    (tmp_path / "notebooks").mkdir()
    for stage, fixture in NOTEBOOKS.items():
        shutil.copy(FIXTURES / f"{fixture}.ipynb", tmp_path / "notebooks" / f"{stage}.ipynb")
    return tmp_path


def planned(root, parameters=None, sweep=None, only=()):
    among = choose(present(root), only) if only else None
    return {
        job.name: job for job in jobs(root, Settings("", "", parameters or {}, sweep or {}), among)
    }


def test_stages_wait_for_what_they_read():
    before = {stage.name: [s.name[:2] for s in upstream(stage)] for stage in STAGES}
    assert before == {
        "01_eda": [],
        "02_split": [],
        "03_isolation_forest": ["02"],
        "04_autoencoder": ["02"],
        "05_gaussian_mixture": ["02"],
        "06_nearest_neighbours": ["02"],
        "07_robust_covariance": ["02"],
        "08_empirical_tails": ["02"],
        "09_comparison": ["02", "03", "04", "05", "06", "07", "08"],
        "10_export": ["02", "03", "04", "05", "06", "07", "08", "09"],
        "11_production": ["02", "10"],
        "12_stability": [],
        "13_few_labels": ["02"],
    }


def test_stages_are_chosen_by_either_name(root):
    stages = present(root)

    def names(**choice):
        return [stage.name[:2] for stage in choose(stages, **choice)]

    assert names() == ["01", "02", "03", "04", "09", "10"]
    assert names(only=["comparison", "eda"]) == ["01", "09"]
    assert names(first="04_autoencoder") == ["04", "09", "10"]
    assert names(first="split", last="autoencoder") == ["02", "03", "04"]
    assert names(only=["stability"]) == ["12"]
    with pytest.raises(Refused, match="'autoencder': did you mean 'autoencoder'"):
        find("autoencder", stages)
    with pytest.raises(Refused, match="the order is 01_eda"):
        choose(stages, first="export", last="split")


def own(root, name, replace=("", "")):
    """Put the template of an own detector into a project's notebooks."""
    text = (ROOT / "notebooks" / "templates" / "detector.ipynb").read_text()
    assert replace[0] in text
    (root / "notebooks" / f"{name}.ipynb").write_text(text.replace(*replace))


def test_a_notebook_of_ones_own_is_a_stage_before_the_comparison(root):
    own(root, "99_lof")
    own(root, "08b_svm")
    (root / "notebooks" / "scratch.ipynb").write_text("no notebook")
    shutil.copy(FIXTURES / "draws_figures.ipynb", root / "notebooks" / "50_notes.ipynb")
    stages = present(root)
    names = [stage.name for stage in stages]
    assert names[names.index("09_comparison") - 2 :][:3] == ["08b_svm", "99_lof", "09_comparison"]
    assert not {"50_notes", "scratch"} & set(names)
    waits = {stage.name: [s.name for s in upstream(stage, stages)] for stage in stages}
    assert waits["08b_svm"] == ["02_split"]
    assert {"08b_svm", "99_lof"} <= set(waits["09_comparison"]) & set(waits["10_export"])
    job = planned(root)["08b_svm"]
    assert (job.candidate, job.stage.writes) == ("svm", ("run/models/svm",))
    assert "run/models/svm[@,]train_on=*" in job.outputs
    assert not {"candidate", "stage"} & set(job.parameters)
    swept = planned(root, sweep={"svm.n_neighbors": [5, 20]})
    assert "08b_svm@n_neighbors=5" in swept


@pytest.mark.parametrize(
    ("name", "replace", "said"),
    [
        ("lof", ("", ""), "lof.ipynb.*such as 08b_lof.ipynb"),
        ("08b_Größe", ("", ""), "such as 08b_lof.ipynb"),
        ("08b_autoencoder", ("", ""), "another model is called autoencoder"),
        ("08b_fusion", ("", ""), "another model is called fusion"),
        ("08b_lof", ("*Reads*", "*Takes*"), r"\*Reads\*: …` that names `split_dir`"),
        ("08b_lof", ("`models/<candidate>/`", "files"), "names `models/<candidate>/`"),
    ],
    ids=["no number", "letters", "taken", "reserved", "reads", "writes"],
)
def test_what_is_wrong_with_a_notebook_of_ones_own_is_a_sentence(root, name, replace, said):
    own(root, name, replace)
    with pytest.raises(Refused, match=said):
        present(root)


def test_parameters_are_read_with_type_default_and_comment():
    parameters = read_parameters(FIXTURES / "takes_every_type.ipynb")
    assert [(p.name, p.kind, p.default, p.comment) for p in parameters.values()] == [
        ("name", "str", "a=b # c", "a text"),
        ("count", "int", 1000, "a number"),
        ("share", "float", 0.001, "a share"),
        ("flag", "bool", False, "a choice"),
        ("budgets", "list[float]", [0.001, 0.01], "shares"),
        ("limit", "int | None", None, "a number or none"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("name", "3", "3"),
        ("count", "-12", -12),
        ("count", 12, 12),
        ("share", "1e-4", 1e-4),
        ("share", 1, 1.0),
        ("flag", "true", True),
        ("flag", False, False),
        ("budgets", "0.1,0.2", [0.1, 0.2]),
        ("budgets", "[0.1, 1]", [0.1, 1.0]),
        ("budgets", [0.1], [0.1]),
        ("limit", "none", None),
        ("limit", "7", 7),
    ],
)
def test_values_take_the_parameters_type(name, value, expected):
    converted = convert(read_parameters(FIXTURES / "takes_every_type.ipynb")[name], value, "-p")
    assert converted == expected
    assert type(converted) is type(expected)


@pytest.mark.parametrize(
    "value", ["35/20,50/20", "[35/20, 50/20]", '["35/20", "50/20"]', "35/20, 50/20"]
)
def test_words_of_a_list_need_no_quotes(value):
    cuts = read_parameters(ROOT / "notebooks" / "12_stability.ipynb")["cuts"]
    assert convert(cuts, value, "-p") == ["35/20", "50/20"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("name", 3),
        ("count", "8.0"),
        ("count", 8.0),
        ("count", True),
        ("count", "many"),
        ("share", "nan"),
        ("share", True),
        ("share", None),
        ("flag", "yes"),
        ("flag", 1),
        ("budgets", "a,b"),
        ("budgets", 0.1),
        ("budgets", "[0.1"),
        ("limit", "some"),
    ],
)
def test_values_of_another_type_are_refused(name, value):
    parameter = read_parameters(FIXTURES / "takes_every_type.ipynb")[name]
    with pytest.raises(Refused, match=f"-p: {name} expects .*, got "):
        convert(parameter, value, "-p")


def test_the_particular_overrides_the_general(root):
    found = planned(root, {"autoencoder.seed": "5", "seed": "3"})
    assert {
        name: job.parameters["seed"] for name, job in found.items() if "seed" in job.parameters
    } == {
        "01_eda": 3,
        "02_split": 3,
        "03_isolation_forest": 3,
        "04_autoencoder": 5,
        "09_comparison": 3,
        "12_stability": 3,
    }


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"latnt": "3"}, "Unknown parameter 'latnt': did you mean 'latent'"),
        (
            {"autoencoder.latnt": "3"},
            "Unknown 04_autoencoder parameter 'latnt': did you mean 'latent'",
        ),
        ({"autoencodr.latent": "3"}, "did you mean 'autoencoder'"),
        ({"comparison.latent": "3"}, "Unknown 09_comparison parameter 'latent': there are accept"),
        ({"latent": "three"}, "latent expects int, got 'three'"),
        ({"run_dir": "here"}, "run_dir is set by the pipeline"),
        ({"dataset": "mine"}, "it follows from --dataset"),
    ],
)
def test_misspelt_and_mistyped_parameters_are_refused(root, parameters, message):
    with pytest.raises(Refused, match=message):
        planned(root, parameters)


def test_of_many_names_the_three_nearest_are_said():
    known = [f"parameter_{i}" for i in range(40)] + ["trees", "members"]
    said = unknown("parameter", "n_estimators", known)
    assert "none of 42 is like it" in said
    assert len(said.split(" are ")[1].split(", ")) == 3
    assert "did you mean 'trees'?" in unknown("parameter", "tree", known)


def test_a_parameter_that_only_other_notebooks_have_is_refused(root):
    with pytest.raises(
        Refused,
        match=r"-p latent: no notebook that is asked for has it, but 03.* and 04_autoencoder have",
    ):
        planned(root, {"latent": "3"}, only=["comparison"])


def test_a_sweep_makes_a_candidate_of_each_combination(root):
    found = planned(
        root, sweep={"04_autoencoder.latent": ["4", "8"], "autoencoder.members": ["[1, 2]", [3]]}
    )
    swept = {
        name: (job.parameters["latent"], job.parameters["members"])
        for name, job in found.items()
        if "@" in name
    }
    assert swept == {
        "04_autoencoder@latent=4,members=_1,_2_": (4, [1, 2]),
        "04_autoencoder@latent=4,members=_3_": (4, [3]),
        "04_autoencoder@latent=8,members=_1,_2_": (8, [1, 2]),
        "04_autoencoder@latent=8,members=_3_": (8, [3]),
    }
    assert "04_autoencoder" not in found
    job = found["04_autoencoder@latent=4,members=_3_"]
    assert job.candidate == "autoencoder@latent=4,members=_3_"
    assert "run/models/autoencoder@latent=4,members=_3_" in job.outputs
    assert "run/models/autoencoder" not in job.outputs


@pytest.mark.parametrize(
    ("sweep", "message"),
    [
        ({"latent": [1]}, "name the stage as well"),
        ({"autoencoder.latnt": [1]}, "did you mean 'latent'"),
        ({"autoencoder.latent": []}, "expected a list of values"),
        ({"autoencoder.latent": 8}, "expected a list of values"),
        ({"autoencoder.latent": ["a"]}, "latent expects int"),
        ({"comparison.alert_budget": [0.1]}, "09_comparison makes no candidate"),
    ],
)
def test_sweeps_that_cannot_be_are_refused(root, sweep, message):
    with pytest.raises(Refused, match=message):
        planned(root, sweep=sweep)


def test_settings_survive_a_file(tmp_path):
    settings = Settings(
        "mine.yaml",
        "",
        {"04_autoencoder.noise": 1e-05, "seed": 1},
        {"04_autoencoder.latent": [4, 8]},
    )
    settings.write(tmp_path / "run.yaml")
    assert Settings.read(tmp_path / "run.yaml") == settings


def test_a_stage_may_have_a_block_of_its_own(tmp_path):
    (tmp_path / "run.yaml").write_text(
        "parameters:\n  seed: 1\n  autoencoder:\n    latent: 4\n    noise: 0.1\n"
    )
    assert Settings.read(tmp_path / "run.yaml").parameters == {
        "seed": 1,
        "autoencoder.latent": 4,
        "autoencoder.noise": 0.1,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("datset: x", "Unknown key 'datset': did you mean 'dataset'"),
        ("- a", "expected lines such as"),
        ("parameters: 3", "expected lines such as"),
        ("dataset: 3", "dataset is 3; expected text"),
        ("a: [", "cannot be read"),
    ],
)
def test_files_that_hold_something_else_are_refused(tmp_path, text, message):
    (tmp_path / "run.yaml").write_text(text)
    with pytest.raises(Refused, match=message):
        Settings.read(tmp_path / "run.yaml")


def test_what_is_asked_lies_over_what_a_file_says():
    file = Settings(
        "mine",
        "raw.csv",
        {"03_isolation_forest.seed": 1, "04_autoencoder.latent": 8},
        {"a.seed": [1, 2]},
    )
    assert file.overlaid(Settings(parameters={"seed": "2"})) == Settings(
        "mine", "raw.csv", {"04_autoencoder.latent": 8, "seed": "2"}
    )


def test_a_value_that_is_none_of_those_a_comment_lists_is_refused():
    device = Parameter("device", "str", "cpu", "cpu | cuda (a GPU) | auto, whichever is there")
    assert device.choices == ["cpu", "cuda", "auto"]
    assert convert(device, "auto", "-p device") == "auto"
    with pytest.raises(Refused, match="-p device: Unknown device 'cud': did you mean 'cuda'"):
        convert(device, "cud", "-p device")
    assert Parameter("latent", "int", 8, "width of the bottleneck").choices == []


def test_a_share_lies_between_0_and_1():
    trim = Parameter("trim", "float", 0.02, "share of the weight dropped")
    assert [convert(trim, value, "-p trim") for value in ("0", "0.5", "1")] == [0.0, 0.5, 1.0]
    trims = Parameter("trims", "list[float]", [0.1], "shares to compare")
    budget = Parameter(
        "alert_budget", "float", 0.002, "share of transactions that people can review, above 0"
    )
    for parameter, value in ((trim, "5"), (trim, -0.1), (trims, "0.1,2"), (budget, "0")):
        with pytest.raises(
            Refused, match=f"{parameter.name} is .*; expected a share, between 0 and 1"
        ):
            convert(parameter, value, "-p x")
    assert convert(Parameter("tail", "float", 8.0, "degrees of freedom"), "8", "-p tail") == 8.0
