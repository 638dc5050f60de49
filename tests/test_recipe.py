"""The recipe: parsed strictly, and derived as its naive definition says, from the past alone."""

import json
import math
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from lib.bundle.categories import rarity
from lib.bundle.recipe import PARTS, SinceLast, Window, seconds_of
from lib.data import datasets, features, labels_seen, splits
from lib.data.datasets import Dataset, load_description, prepare
from lib.errors import DataError
from lib.production.scoring import score_table
from lib.reporting import cards

BASE = {
    "name": "shop",
    "time": "t",
    "label": "fraud",
    "amount": "eur",
    "entities": ["card", "merchant"],
    "missing": "median",
}
WINDOWS = [
    {"count": "card", "within": "10s"},
    {"count": "card", "within": "10s", "delay": "5s"},
    *({how: "eur", "of": "card", "within": "10s"} for how in ("mean", "sum", "max", "min", "std")),
    *(
        {how: "eur", "of": "card", "within": "10s", "delay": "5s"}
        for how in ("mean", "sum", "max", "min", "std")
    ),
    {"distinct": "merchant", "of": "card", "within": "10s"},
    {"distinct": "merchant", "of": "card", "within": "10s", "delay": "5s"},
    {"since_last": "card"},
    {"fraud_rate": "merchant", "within": "10s", "delay": "5s"},
    {"fraud_count": "merchant", "within": "10s", "delay": "5s"},
]


def shop(*derived, **changes) -> Dataset:
    return Dataset.from_dict(BASE | {"features": ["eur", *derived]} | changes)


def table(t, /, **changes) -> pd.DataFrame:
    n = len(t)
    columns = {
        "t": np.array(t, float),
        "card": ["a"] * n,
        "merchant": ["m"] * n,
        "eur": np.arange(1.0, n + 1),
        "fraud": [0] * n,
    }
    return pd.DataFrame(columns | changes)


def derived(dataset, frame) -> pd.DataFrame:
    return features.derive(dataset, prepare(dataset, frame, "memory"))


def column(feature, frame, **changes) -> list:
    """The one derived feature, NaN as None."""
    dataset = shop(feature, **changes)
    values = derived(dataset, frame)[dataset.features[-1]]
    return [None if math.isnan(value) else value for value in values]


def refusal(*derived, **changes) -> str:
    with pytest.raises(DataError) as caught:
        shop(*derived, **changes)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- by hand


T = [0, 4, 4, 10, 14, 30]  # two ties at 4
MERCHANTS = ["m", "m", "n", None, "n", "m"]


@pytest.mark.parametrize(
    ("feature", "expected"),
    [
        # at 10 the window begins behind 0: what is 10 s old is out
        ({"count": "card", "within": "10s"}, [1, 2, 2, 3, 2, 1]),
        ({"sum": "eur", "of": "card", "within": "10s"}, [1, 3, 4, 9, 9, 6]),
        ({"mean": "eur", "of": "card", "within": "10s"}, [1, 1.5, 2, 3, 4.5, 6]),
        ({"max": "eur", "of": "card", "within": "10s"}, [1, 2, 3, 4, 5, 6]),
        ({"min": "eur", "of": "card", "within": "10s"}, [1, 1, 1, 2, 4, 6]),
        (
            {"std": "eur", "of": "card", "within": "10s"},
            [None, 0.5**0.5, 2**0.5, 1, 0.5**0.5, None],
        ),
        ({"distinct": "merchant", "of": "card", "within": "10s"}, [1, 1, 2, 2, 1, 1]),
        ({"since_last": "card"}, [None, 4, 4, 6, 4, 16]),
        # at 14 labels up to 4 are known, and those behind -6 are covered
        ({"count": "card", "within": "10s", "delay": "10s"}, [0, 0, 0, 1, 3, 1]),
        ({"sum": "eur", "of": "card", "within": "10s", "delay": "10s"}, [0, 0, 0, 1, 6, 5]),
        ({"mean": "eur", "of": "card", "within": "10s", "delay": "10s"}, [None] * 3 + [1, 2, 5]),
        ({"max": "eur", "of": "card", "within": "10s", "delay": "10s"}, [None] * 3 + [1, 3, 5]),
        ({"min": "eur", "of": "card", "within": "10s", "delay": "10s"}, [None] * 3 + [1, 1, 5]),
        ({"std": "eur", "of": "card", "within": "10s", "delay": "10s"}, [None] * 4 + [1, None]),
        (
            {"distinct": "merchant", "of": "card", "within": "10s", "delay": "10s"},
            [0] * 3 + [1, 2, 1],
        ),
    ],
)
def test_a_history_is_what_a_hand_computes(feature, expected):
    frame = table(T, merchant=MERCHANTS)
    assert column(feature, frame) == pytest.approx(expected)


def test_a_label_counts_when_it_is_known_and_an_unlabelled_row_never():
    frame = table([0, 1, 2, 12, 13, 40], fraud=[1, None, 0, 1, 0, 0])
    rate = {"fraud_rate": "merchant", "within": "20s", "delay": "10s"}
    count = {"fraud_count": "merchant", "within": "20s", "delay": "10s"}
    assert column(rate, frame) == [0, 0, 0, 0.5, 0.5, 0.5]
    assert column(count, frame) == [0, 0, 0, 1, 1, 1]


def test_a_missing_entity_has_no_history_and_is_nobody_s():
    frame = table([0, 1, 2, 3], card=[None, "", "a", None])
    assert column({"count": "card", "within": "1h"}, frame) == [1, 1, 1, 1]
    assert column({"since_last": "card"}, frame) == [None] * 4
    assert column({"sum": "eur", "of": "card", "within": "1h"}, frame) == [1, 2, 3, 4]


def test_a_missing_number_is_in_no_statistic():
    frame = table([0, 1, 2], eur=[1, np.nan, 4])
    expected = {"mean": [1, 1, 2.5], "sum": [1, 1, 5], "max": [1, 1, 4], "min": [1, 1, 1]}
    for how, values in expected.items():
        assert column({how: "eur", "of": "card", "within": "1h"}, frame) == values
    frame = table([0, 1], eur=[np.nan, 4])
    assert column({"mean": "eur", "of": "card", "within": "1h"}, frame) == [None, 4]


def test_ratios_and_differences_may_name_what_is_derived_later():
    ratio = {"ratio": ["eur", "amount_past"], "name": "jump"}
    mean = {"sum": "eur", "of": "card", "within": "10s", "delay": "1s", "name": "amount_past"}
    less = {"difference": ["amount_past", "eur"]}
    frame = derived(shop(ratio, less, mean), table([0, 1, 2]))
    np.testing.assert_allclose(frame["jump"], [np.nan, 2, 1])
    assert frame["amount_past_difference_eur"].tolist() == [-1, -1, 0]


def test_the_clock_is_that_of_the_timezone():
    when = ["2024-03-30 23:30:00Z", "2024-03-31 00:30:00Z", "2024-04-01 04:59:00Z"]
    parts = [{"time": part} for part in PARTS]
    found = derived(shop(*parts), table([0] * 3, t=when))
    assert found["hour_of_day"].tolist() == [23, 0, 4]
    assert found["day_of_week"].tolist() == [5, 6, 0]
    assert found["is_night"].tolist() == [0, 1, 1]
    assert found["is_weekend"].tolist() == [1, 1, 0]
    found = derived(shop(*parts, timezone="Europe/Paris"), table([0] * 3, t=when))
    assert found["hour_of_day"].tolist() == [0, 1, 6]  # summer time begins in between
    assert found["day_of_week"].tolist() == [6, 6, 0]


def test_a_time_that_is_a_number_counts_from_1970():
    assert column({"time": "hour_of_day"}, table([0, 3599, 3600, 86_400])) == [0, 0, 1, 0]


def test_windows_of_decimal_times_are_exact():
    # 0.3 - 0.1 is not 0.2 in floats; what is exactly one second old is out
    frame = table([1.7e9 + 0.1, 1.7e9 + 0.7, 1.7e9 + 1.1])
    assert column({"count": "card", "within": "1s"}, frame) == [1, 2, 2]


def test_distances_are_great_circles():
    places = {"a": [52.5200, 0], "b": [13.4050, 0], "c": [48.8566, 0], "d": [2.3522, 180]}
    kilometres = column({"distance_km": list("abcd")}, table([0, 1], **places))
    assert kilometres == pytest.approx([877.46, 20_015.1], abs=0.1)


# --- against the definition


def defined(feature, rows) -> list:
    """Each value by its definition, in n² steps; rows are dicts in time order."""
    found = []
    for row in rows:
        entity = row[feature.entity]
        others = [r for r in rows if r is not row and r[feature.entity] == entity is not None]
        if isinstance(feature, SinceLast):
            before = [r["t"] for r in others if r["t"] < row["t"]]
            found.append(row["t"] - max(before) if before else None)
            continue
        within, delay = feature.within_s, feature.delay_s
        if delay is None:
            covered = [r for r in others if row["t"] - within < r["t"] < row["t"]] + [row]
        else:
            last = row["t"] - delay
            covered = [r for r in others if last - within < r["t"] <= last]
        found.append(statistic(feature, covered))
    return found


def statistic(feature, covered):
    how = feature.statistic
    if how == "count":
        return len(covered)
    if how.startswith("fraud"):
        known = [r["fraud"] for r in covered if r["fraud"] is not None]
        if how == "fraud_count":
            return sum(known)
        return sum(known) / len(known) if known else 0
    values = [r[feature.column] for r in covered if r[feature.column] is not None]
    if how == "distinct":
        return len(set(values))
    if how == "sum":
        return sum(values)
    if len(values) < (2 if how == "std" else 1):
        return None
    by_name = {"mean": np.mean, "max": max, "min": min, "std": lambda v: np.std(v, ddof=1)}
    return float(by_name[how](values))


ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "t": st.integers(0, 40).map(float),
            "card": st.sampled_from(["a", "b", None]),
            "merchant": st.sampled_from(["m", "n", "o", None]),
            "eur": st.one_of(st.none(), st.integers(0, 400).map(lambda cents: cents / 4)),
            "fraud": st.sampled_from([0, 1, None]),
        }
    ),
    min_size=1,
    max_size=25,
)
EVERY = shop(*WINDOWS)


def frame_of(rows) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    return frame.astype({"card": "str", "merchant": "str", "eur": float, "fraud": float})


@settings(max_examples=40, deadline=None)
@given(rows=ROWS)
def test_every_history_is_its_definition(rows):
    rows = sorted(rows, key=lambda row: row["t"])
    found = derived(EVERY, frame_of(rows))
    for feature in EVERY.recipe.histories:
        expected = np.array(defined(feature, rows), float)
        np.testing.assert_allclose(
            found[feature.name], expected, rtol=1e-9, atol=1e-6, err_msg=feature.name
        )


@settings(max_examples=25, deadline=None)
@given(rows=ROWS, later=ROWS, seed=st.integers(0, 99))
def test_neither_the_order_of_rows_nor_the_future_nor_others_matter(rows, later, seed):
    names = list(EVERY.recipe.names)
    rows = [row | {"id": place} for place, row in enumerate(rows)]
    base = derived(shop(*WINDOWS, ids=["id"]), frame_of(rows)).set_index("id")[names].sort_index()
    end = max(row["t"] for row in rows)
    future = [row | {"t": end + 1 + row["t"], "id": -1} for row in later]
    others = [row | {"card": "x", "merchant": "y", "id": -1} for row in later]
    for added in (future, others):
        mixed = [*rows, *added]
        np.random.default_rng(seed).shuffle(mixed)
        found = derived(shop(*WINDOWS, ids=["id"]), frame_of(mixed)).set_index("id")
        found = found.loc[found.index != "-1", names]
        pd.testing.assert_frame_equal(found.loc[base.index], base, rtol=1e-12, atol=1e-9)


def test_two_computations_are_the_same_to_the_last_bit():
    rng = np.random.default_rng(0)
    n = 20_000
    card = rng.integers(0, 50, n).astype(str)
    frame = table(np.sort(rng.integers(0, 5_000, n)), card=card, eur=rng.lognormal(3, 1, n))
    once, again = derived(EVERY, frame), derived(EVERY, frame)
    pd.testing.assert_frame_equal(once, again, check_exact=True)


# --- categories


def test_a_category_is_its_rarity_in_reference_alone():
    kinds = (
        ["food"] * 6 + ["fuel"] * 3 + [None] + ["food", "boats", None, "fuel"] * 2 + ["toys"] * 2
    )
    dataset = shop({"category": "kind"}, entities=[])
    frame = prepare(dataset, table(range(20), kind=kinds), "memory")
    frame = features.derive(dataset, frame)
    fitted = features.encoders(dataset, frame.iloc[:10])
    assert fitted == {"kind": {"shares": {"food": 0.6, "fuel": 0.3, "": 0.1}, "unseen": 1 / 11}}
    shares = {"food": 0.6, "fuel": 0.3, None: 0.1}
    expected = [-math.log(shares.get(kind, 1 / 11)) for kind in kinds]
    encoded = features.encode(dataset, frame, fitted)
    np.testing.assert_allclose(encoded["kind"], expected)
    np.testing.assert_allclose(rarity(fitted["kind"], kinds), expected)
    assert encoded["kind_text"].tolist()[:9] == kinds[:9]


def test_two_features_may_be_of_one_category():
    dataset = shop({"category": "kind"}, {"category": "kind", "name": "again"})
    frame = derived(dataset, table([0, 1, 2], kind=["x", "x", "y"]))
    encoded = features.encode(dataset, frame, features.encoders(dataset, frame))
    assert encoded["kind"].tolist() == encoded["again"].tolist()


def test_shares_are_of_weight_and_what_is_unseen_is_never_commoner_than_what_is_seen():
    dataset = shop({"category": "kind"}, weight="w")
    frame = table(range(4), kind=["x", "y", "z", "z"], w=[97.0, 0.5, 1.0, 1.5])
    fitted = features.encoders(dataset, derived(dataset, frame))
    assert fitted["kind"]["shares"] == {"x": 0.97, "z": 0.025, "y": 0.005}
    assert fitted["kind"]["unseen"] == 0.005


def test_a_category_may_be_a_number(tmp_path):
    dataset = shop({"category": "mcc"})
    path = tmp_path / "t.parquet"
    table([0, 1, 2], mcc=[5812.0, np.nan, 42.0]).to_parquet(path)
    frame = features.derive(dataset, datasets.read_transactions(dataset, path))
    assert frame["mcc_text"].tolist()[::2] == ["5812", "42"]
    assert "" in features.encoders(dataset, frame)["mcc"]["shares"]


# --- the description


def test_names_are_readable_and_a_name_can_be_given():
    dataset = load_description("payments")
    assert {
        "category",
        "hour_of_day",
        "distance_km",
        "count_card_1d",
        "amount_mean_card_30d",
        "amount_ratio_amount_mean_card_30d",
        "since_last_card",
        "fraud_rate_merchant_30d_delay_7d",
    } <= set(dataset.features)
    assert shop({"distinct": "merchant", "of": "card", "within": "12h"}).features == (
        "eur",
        "merchant_distinct_card_12h",
    )
    assert shop({"since_last": "card", "name": "pause"}).features == ("eur", "pause")
    assert set(dataset.recipe.meanings) == set(dataset.features) - {"amount"}


def test_a_recipe_survives_json_and_reads_what_it_needs():
    dataset = load_description("payments")
    again = Dataset.from_dict(json.loads(json.dumps(dataset.to_dict())))
    assert again == dataset
    assert again.features == dataset.features
    assert {"card", "merchant", "category", "home_lat"} < set(dataset.columns)
    assert dataset.kept == ("transaction", "card", "merchant")


def test_a_description_without_a_recipe_is_what_it_was():
    plain = Dataset.from_dict({"name": "p", "time": "t", "features": ["x"]})
    assert plain.recipe is None
    assert {"entities", "timezone"} & set(plain.to_dict()) == set()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("30min", 1800), ("12h", 43_200), ("7d", 604_800), ("2w", 1_209_600)],
)
def test_durations(text, seconds):
    assert seconds_of(text) == seconds


CARD_1D = {"count": "card", "within": "1d"}
RATE = {"fraud_rate": "merchant", "within": "1d", "delay": "7d"}
REFUSED = [
    ([{"count": "card"}], {}, ["`within` is missing", "7d"]),
    ([CARD_1D | {"within": "0d"}], {}, ["`within` is '0d'", "above 0"]),
    ([CARD_1D | {"within": "-1d"}], {}, ["`within` is '-1d'", "duration"]),
    ([CARD_1D | {"within": 7}], {}, ["`within` is 7", "duration"]),
    ([CARD_1D | {"within": "1 month"}], {}, ["'1 month'", "duration"]),
    ([CARD_1D | {"within": "200000d"}], {}, ["'200000d'", "100 years"]),
    ([CARD_1D | {"delay": "0s"}], {}, ["`delay` is '0s'"]),
    ([CARD_1D | {"delays": "1d"}], {}, ["'delays'", "did you mean 'delay'"]),
    ([CARD_1D | {"of": "card"}], {}, ["'of'", "unknown"]),
    ([CARD_1D | {"name": 3}], {}, ["name is 3"]),
    ([{"within": "1d"}], {}, ["exactly one of", "since_last"]),
    ([{"count": "card", "sum": "eur", "within": "1d"}], {}, ["exactly one of"]),
    ([{"count": "terminal", "within": "1d"}], {}, ["'terminal'", "`entities`", "card"]),
    ([{"since_last": "terminal"}], {}, ["'terminal'", "`entities`"]),
    ([{"mean": "euro", "of": "card", "within": "1d"}], {}, ["'euro'", "did you mean 'eur'"]),
    ([{"mean": "merchant", "of": "card", "within": "1d"}], {}, ["'merchant'", "number"]),
    ([{"mean": "eur", "within": "1d"}], {}, ["`of` is None"]),
    ([{"distinct": "eur", "of": "card", "within": "1d"}], {}, ["'eur'", "entity or category"]),
    ([{"ratio": ["eur", "eur"]}], {}, ["'eur' and itself"]),
    ([{"ratio": ["eur", "size"]}], {}, ["'size'", "no number"]),
    ([{"ratio": ["eur"]}], {}, ["['eur']", "2 names"]),
    ([{"category": "kind"}, {"ratio": ["eur", "kind"]}], {}, ["'kind'", "no number"]),
    (
        [{"ratio": ["eur", "b"], "name": "a"}, {"ratio": ["a", "eur"], "name": "b"}],
        {},
        ["circle", "a -> b -> a"],
    ),
    ([{"distance_km": ["a", "b"]}], {}, ["['a', 'b']", "4 names"]),
    ([{"time": "month"}], {}, ["'month'", "hour_of_day"]),
    ([CARD_1D, CARD_1D], {}, ["'count_card_1d'", "another `name`"]),
    ([CARD_1D | {"name": "eur"}], {}, ["'eur'", "another `name`"]),
    ([CARD_1D | {"name": "merchant"}], {}, ["'merchant'", "another `name`"]),
    ([{"category": "card"}], {}, ["'card'", "entity and a category"]),
    ([CARD_1D], {"time": None}, ["history", "`time` is null"]),
    ([{"time": "is_night"}], {"time": None}, ["'is_night'", "`time` is null"]),
    ([RATE], {"label": None}, ["needs a `label`"]),
    ([{"fraud_rate": "card", "within": "1d"}], {}, ["needs a `delay`"]),
    ([{"time": "is_night"}], {"timezone": "Mars/Base"}, ["timezone", "'Mars/Base'", "UTC"]),
    ([CARD_1D], {"timezone": "UTC"}, ["`timezone` has no effect"]),
    ([{"since_last": "card"}], {"missing": "refuse"}, ["'since_last_card'", "`missing: median`"]),
    ([], {"entities": ["eur"]}, ["'eur'", "feature and entity"]),
    ([], {"entities": ["card"], "ids": ["card"]}, ["'card'", "id and entity"]),
    ([], {"entities": "card"}, ["entities", "'card'", "list"]),
    ([["eur"]], {}, ["['eur']", "name of a column"]),
]


@pytest.mark.parametrize(("given", "changes", "words"), REFUSED)
def test_an_impossible_recipe_is_refused_in_one_sentence(given, changes, words):
    message = refusal(*given, **changes)
    assert [word for word in words if word not in message] == []


def test_counts_and_means_with_the_present_one_need_no_median():
    kept = [CARD_1D, {"mean": "eur", "of": "card", "within": "1d"}, RATE]
    assert shop(*kept, missing="refuse").missing == "refuse"


def test_a_time_too_far_away_is_refused():
    with pytest.raises(DataError, match="time_unit"):
        column(CARD_1D, table([0, 1e15]))


# --- end to end


@pytest.fixture(scope="module")
def payments(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        root = tmp_path_factory.mktemp("root")
        (root / "data").mkdir()
        text = (datasets.ROOT / "data" / "payments.yaml").read_text()
        (root / "data" / "payments.yaml").write_text(text)
        patch.setattr(datasets, "ROOT", root)
        folder = splits.ensure("payments", rows=3_000)
    return splits.open_split(folder)


def test_payments_are_split_with_their_features(payments):
    data = payments.arrays("reference")
    assert data.X.shape == (1_500, len(payments.dataset.features))
    assert payments.manifest["labels_seen"] == "fraud rates of merchant, 7d late"
    assert set(payments.manifest["recipe"]) == set(payments.dataset.recipe.names)
    only_first = payments.dataset.features.index("since_last_card")
    assert set(np.flatnonzero(np.isnan(data.X).any(axis=0))) == {only_first}
    frame = payments.frame("reference")
    assert set(frame["category_text"].dropna()) <= set(
        payments.manifest["encoders"]["category"]["shares"]
    )
    assert {"card", "merchant", "transaction"} < set(frame.columns)


def test_another_way_to_derive_makes_another_split(monkeypatch):
    table = splits.find("payments", rows=3_000)
    before = table.locate()
    plain = splits.find("simulated", rows=3_000).locate()
    monkeypatch.setattr(features, "code", lambda: "another")
    assert table.locate() != before
    assert splits.find("simulated", rows=3_000).locate() == plain


def test_the_data_card_says_what_is_derived(payments):
    text = cards.data(payments)
    assert "`count_card_7d`: number of transactions of the same `card` in the last 7d" in text
    assert "labels that features know: fraud rates of merchant" in text


def test_payments_histories_go_on_over_the_cuts(payments):
    everything = pd.concat([payments.frame(period) for period in splits.PERIODS])
    windows = [f for f in payments.dataset.recipe.histories if isinstance(f, Window)]
    by_name = {feature.name: feature for feature in windows}
    seconds = (
        everything["paid_at"].astype("int64")
        // 10 ** ({"s": 0, "ms": 3, "us": 6, "ns": 9}[everything["paid_at"].dt.unit])
    )
    rows = everything.assign(t=seconds).to_dict("records")[:1_800]
    for name in ("amount_mean_card_7d", "fraud_rate_merchant_30d_delay_7d"):
        expected = np.array(defined(by_name[name], rows), float)
        np.testing.assert_allclose(everything[name][:1_800], expected, rtol=1e-9)


@pytest.mark.parametrize(
    ("ids", "words"),
    [([], "no `ids`"), (["nr"], "2; a server counts each id once"), (["other"], "")],
)
def test_ids_that_a_server_could_not_count_by_are_remarked(ids, words):
    dataset = shop({"count": "card", "within": "10s"}, ids=ids)
    frame = table([1, 2, 3, 4], nr=["a", "a", "b", "b"], other=["1", "2", "3", "4"])
    said = " ".join(features.remarks(dataset, derived(dataset, frame)))
    assert words in said
    assert bool(said) == bool(words)


def test_what_is_not_derived_is_said(payments):
    dataset = load_description("payments")
    with pytest.raises(DataError, match="not derived yet"):
        dataset.arrays(payments.frame("reference")[["amount"]])


def test_a_file_is_scored_where_its_rows_tell_all(tmp_path):
    dataset = shop({"time": "hour_of_day"}, {"difference": ["hour_of_day", "eur"]})
    table([0, 7200], eur=[5.0, 7.0]).to_csv(tmp_path / "new.csv", index=False)
    seen = []

    def raw_score(X):
        seen.extend(X[:2].tolist())  # others fill a batch up
        return np.zeros(len(X))

    model = SimpleNamespace(
        raw_score=raw_score,
        anomaly_score=lambda raw: np.zeros(len(raw)),
        threshold=0.9,
        manifest={"model": "m"},
        version="1",
        features=dataset.features,
    )
    report = score_table(dataset, tmp_path / "new.csv", model, tmp_path / "out").report
    assert (report["n"], seen) == (2, [[5, 0, -5], [7, 2, -5]])
    written = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert written["card"].tolist() == ["a", "a"]  # an entity is kept like an identifier


def test_an_own_table_with_a_recipe_goes_from_csv_to_a_split(tmp_path):
    path = tmp_path / "mine.yaml"
    mapping = BASE | {"features": ["eur", {"category": "kind"}, *WINDOWS], "raw": {"path": "t.csv"}}
    path.write_text(yaml.safe_dump(mapping))
    n = 400
    rng = np.random.default_rng(1)
    frame = table(
        rng.integers(0, 2_000, n),
        card=rng.integers(100, 110, n),  # identifiers that are numbers
        kind=rng.choice(["a", "b", ""], n),
        fraud=rng.integers(0, 2, n),
    )
    frame.to_csv(tmp_path / "t.csv", index=False)
    dataset = load_description(path)
    read = datasets.read_transactions(dataset, tmp_path / "t.csv")
    split = splits.make(dataset, read, tmp_path / "split", source="custom", raw_sha256=None)
    assert split.arrays("validation").X.shape[1] == len(WINDOWS) + 2
    assert splits.open_split(tmp_path / "split").dataset == dataset
    assert labels_seen.in_features(dataset.recipe) == (
        "fraud rates of merchant, 5s late; fraud counts of merchant, 5s late"
    )


def test_a_table_s_cell_says_in_short_that_features_know_labels():
    rate = {"fraud_rate": "merchant", "within": "7d", "delay": "7d"}
    count = {"fraud_count": "card", "within": "7d", "delay": "7d"}
    plain = {"count": "card", "within": "7d"}
    kinds = [
        labels_seen.kinds_in_features(shop(*derived).recipe)
        for derived in ((), (plain,), (plain, rate), (count, rate, rate | {"name": "again"}))
    ]
    assert kinds == [None, None, "fraud rates", "fraud rates and fraud counts"]
    assert labels_seen.in_short("all", kinds[2]) == "none; fraud rates in features"
    assert labels_seen.in_short("genuine", kinds[0]) == "frauds removed"
    assert labels_seen.in_short(None) == "none"
