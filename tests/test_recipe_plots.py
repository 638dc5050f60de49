"""What notebooks 01 and 02 show of a recipe: categories, entities, how far a feature separates."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from lib.data import splits
from lib.data.datasets import Arrays, Dataset, prepare
from lib.evaluation import intervals, metrics, separation
from lib.reporting import recipe_plots


def arrays(y, x=None, weight=None, time_s=None) -> Arrays:
    y = np.asarray(y, np.int8)
    n = len(y)
    X = np.zeros((n, 1), np.float32) if x is None else np.asarray(x, np.float32).reshape(n, 1)
    weight = np.ones(n) if weight is None else np.asarray(weight, float)
    time_s = np.arange(n, dtype=float) * 60 if time_s is None else np.asarray(time_s, float)
    return Arrays(X, y, weight, time_s, None)


@pytest.fixture
def axes():
    fig, found = plt.subplots(1, 2)
    yield found
    plt.close(fig)


# --- categories


def test_shares_and_rates_of_values_by_hand():
    values = pd.Series(["a", "b", "a", None, "a", "", "b"])
    data = arrays([1, 0, 0, 1, -1, -1, 0], weight=[1, 2, 3, 1, 1, 1, 1])
    table = recipe_plots.by_value(values, data)
    assert list(table.index) == ["a", "b", recipe_plots.NO_VALUE]
    assert table["transactions"].tolist() == [3, 2, 2]
    assert table["share"].tolist() == [0.5, 0.3, 0.2]
    assert table["frauds"].tolist() == [1, 0, 1]
    assert table["rate"].tolist() == [0.25, 0, 1]  # of the weight that has a label
    n = (1 + 3) ** 2 / (1 + 9)
    assert table.loc["a", "high"] == intervals.clopper_pearson(0.25, n)["high"]


def test_rare_values_stand_together_unless_there_is_one():
    names = np.repeat([f"v{i:02}" for i in range(15)], range(20, 5, -1))
    data = arrays(np.zeros(len(names)))
    table = recipe_plots.by_value(pd.Series(names), data, n=12)
    assert list(table.index) == [f"v{i:02}" for i in range(12)] + ["the other 3 values"]
    assert table["share"].sum() == pytest.approx(1)
    few = recipe_plots.by_value(pd.Series(names), data, n=14)
    assert list(few.index)[-1] == "v14"


def test_values_of_any_name_and_a_table_without_labels_can_be_drawn(axes):
    values = pd.Series(["$x^", "a\nb", "z" * 90, "the other 2 values"]).astype("category")
    table = recipe_plots.by_value(values, arrays([-1] * 4))
    assert table["rate"].isna().all()
    assert (recipe_plots.value_text(table)["fraud rate"] == "–").all()
    recipe_plots.categories(axes, table, None)
    assert not axes[1].get_visible()
    axes[0].figure.canvas.draw()


def test_a_rare_value_does_not_push_the_other_rates_together(axes):
    values = pd.Series(["a"] * 5_000 + ["b"] * 5_000 + ["rare"] * 2)
    data = arrays(np.arange(10_002) % 100 == 50)
    table = recipe_plots.by_value(values, data)
    recipe_plots.categories(axes, table, 0.01)
    assert table.loc["rare", "high"] > 0.8
    assert axes[1].get_xlim()[1] < 0.2


# --- entities

OWNERS = {"card": pd.Series(["a", "b", "a", None, "c", "a", "d", "b"])}


def test_entities_by_hand():
    data = arrays([1, 0, 0, 1, -1, 0, 0, 0])
    row = recipe_plots.by_entity(OWNERS, data).loc["card"]
    assert row["how many"] == "4"
    assert row["most"] == "3"
    assert row["rows without"] == "1"
    # a, b and d have a label, a has a fraud
    assert row["with a known fraud"].startswith("33.33% [")


def test_unused_values_of_a_categorical_column_are_no_entities():
    owner = pd.Series(["a", "b", "a"]).astype(pd.CategoricalDtype(["a", "b", "never"]))
    row = recipe_plots.by_entity({"card": owner}, arrays([0, 0, 1])).loc["card"]
    assert row["how many"] == "2"


def test_newcomers_are_in_no_period_before():
    found = recipe_plots.newcomers(OWNERS, {"reference": 3, "validation": 2, "untouched": 3})
    assert found.loc["card"].tolist() == ["2", "1 of 1 (100%)", "1 of 3 (33%)"]


def test_everybody_is_new_on_the_first_day(axes):
    time_s = np.array([0, 1, 2, 3, 1, 1, 1, 1.9]) * recipe_plots.DAY_S
    order = np.argsort(time_s, kind="stable")
    owners = {"card": OWNERS["card"].iloc[order].reset_index(drop=True)}
    ax = recipe_plots.arrivals(axes[0], owners, time_s[order])
    [line] = ax.get_lines()
    # day 0: a; day 1: b, c, a, d, b; day 2: a
    assert line.get_ydata().tolist() == [1, 0.75, 0]
    assert "days" in ax.get_xlabel()


# --- how far a feature separates


def test_an_auc_by_hand():
    data = arrays([1, 0, 0, 1, -1], weight=[1, 1, 3, 1, 9])
    # of frauds at 2 and 1, against genuine at 1 and 2 (three times)
    found = separation.roc_auc(data, np.array([2.0, 1.0, 2.0, 1.0, 0.0]))
    assert found["value"] == pytest.approx(((1 + 3 / 2) / 4 + (1 / 2) / 4) / 2)
    assert found["low"] is None


@pytest.mark.parametrize("seed", range(3))
def test_an_auc_and_its_interval_are_those_of_resampled_blocks(seed):
    rng = np.random.default_rng(seed)
    n = 4_000
    y = (rng.random(n) < 0.03).astype(int)
    x = rng.normal(size=n).round(1) + 0.6 * y
    data = arrays(y, weight=rng.choice([1.0, 3.0], n))
    found = separation.roc_auc(data, x)
    resampled = metrics.evaluate(data, {"x": x}, metrics.Options(budgets=(), seed=seed))
    expected = resampled["x"]["roc_auc"]
    assert found["value"] == pytest.approx(expected["value"])
    assert found["low"] == pytest.approx(expected["low"], abs=0.01)
    assert found["high"] == pytest.approx(expected["high"], abs=0.01)


def test_the_sign_of_a_feature_does_not_matter_but_is_told():
    rng = np.random.default_rng(0)
    y = np.arange(3_000) % 30 == 0
    data = arrays(y)
    x = rng.normal(size=3_000) + y
    up, side = separation.either_way(separation.roc_auc(data, x))
    down, other = separation.either_way(separation.roc_auc(data, -x))
    assert (side, other) == ("higher", "lower")
    assert down == pytest.approx(up)
    noise, nowhere = separation.either_way(separation.roc_auc(data, rng.normal(size=3_000)))
    assert nowhere == ""
    assert noise["value"] >= 0.5 >= noise["low"]


@pytest.mark.parametrize(
    ("y", "value"), [([-1] * 50, None), ([0] * 50, None), ([1] * 50, None), ([0] * 49 + [1], 1.0)]
)
def test_few_labels_or_none_give_no_interval(y, value):
    found = separation.roc_auc(arrays(y), np.arange(50.0))
    assert found == {"value": value, "low": None, "high": None}


def test_a_feature_without_a_value_separates_nothing():
    data = arrays(np.arange(600) % 20 == 0)
    assert separation.roc_auc(data, np.full(600, np.nan))["value"] == 0.5
    half = np.where(np.arange(600) % 2 == 0, np.nan, 3.0)
    assert separation.roc_auc(data, half)["value"] == 0.5


def made(tmp_path, y, **changes):
    n = len(y)
    mapping = {
        "name": "shop",
        "time": "t",
        "label": "fraud",
        "amount": "eur",
        "entities": ["card"],
        "features": ["eur", {"count": "card", "within": "1h"}],
        "missing": "median",
    }
    dataset = Dataset.from_dict(mapping | changes)
    frame = pd.DataFrame(
        {"t": np.arange(n, dtype=float) * 60, "card": "a", "eur": 1.0, "fraud": pd.Series(y)}
    )
    checked = prepare(dataset, frame, "memory")
    return splits.make(dataset, checked, tmp_path / "s", source="custom", raw_sha256=None)


def remarks(split):
    data = split.arrays("reference")
    return recipe_plots.separation_remarks(split, recipe_plots.alone(data, {"count_card_1h": 1}))


def test_a_figure_says_which_labels_its_features_know(tmp_path, axes):
    rate = {"fraud_rate": "card", "within": "1h", "delay": "1h"}
    y = (np.arange(2_000) % 20 == 0).astype(int)
    with_rates = made(tmp_path / "a", y, features=["eur", {"count": "card", "within": "1h"}, rate])
    assert "fraud rates of card, 1h late" in remarks(with_rates)[0]
    assert "No feature knows a label" in remarks(made(tmp_path / "b", y))[0]
    found = recipe_plots.alone(with_rates.arrays("reference"), {"count_card_1h": 1, "$": 2})
    recipe_plots.separations(axes[0], found)
    axes[0].figure.canvas.draw()


def test_a_figure_says_that_frauds_are_few_or_none(tmp_path):
    assert "no fraud is known" in remarks(made(tmp_path / "a", [0] * 200))[0]
    few = (np.arange(200) % 40 == 0).astype(int)
    assert "3 known frauds in reference: too few" in remarks(made(tmp_path / "b", few))[0]
    assert recipe_plots.separation_remarks(made(tmp_path / "c", few), {}) == []
