"""Histories online: what a server derives for one transaction is what the table has."""

import itertools
import json
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import numpy as np
import online
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from online import Prepared, agree, shop, table

from lib import bundle
from lib.bundle import recent
from lib.bundle.raw import CellError, RawTable
from lib.errors import BundleError
from lib.production.scoring import score_table
from serve.history import N_AHEAD, StoreError, open_store


@pytest.fixture(scope="module")
def prepared():
    return Prepared(shop(), table())


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.check)])
def address(request, tmp_path):
    """Where a store is; for Redis a server is started, which fails where there is none."""
    if request.param == "sqlite":
        yield str(tmp_path / "histories")
        return
    server = online.Redis(tmp_path)
    yield server.url
    server.stop()


def opened(address, raw, dataset="shop"):
    store = open_store(address, dataset)
    store.prepare(raw)
    return store


def derive(store, raw, transactions):
    """Features of transactions, all lookups at once."""
    asked = [raw.lookups(each) for each in transactions]
    found = iter(store.past(list(itertools.chain.from_iterable(asked))))
    pasts = [{lookup.entity: next(found) for lookup in lookups} for lookups in asked]
    return raw.matrix(transactions, pasts)


def test_one_after_the_other_as_the_table_has_it(prepared, address):
    raw, store = prepared.raw, opened(address, prepared.raw)
    labels = prepared.labels()
    found = []
    for row in prepared.rows:
        transaction = raw.read(row)
        store.remember([transaction])
        # its own label, which no window knows before its delay is over
        if transaction.id in labels:
            assert store.label({transaction.id: labels[transaction.id]}) == []
        found.append(derive(store, raw, [transaction])[0])
    agree(np.array(found), prepared.X)
    assert np.isnan(prepared.X).any()
    status = store.status()
    assert (status.n, status.n_labelled) == (200, len(labels))


@pytest.mark.parametrize("per_request", [7, 100])
def test_many_at_once_from_a_history_that_a_bundle_brings(prepared, address, per_request):
    raw, store = prepared.raw, opened(address, prepared.raw)
    known = recent.unpack(recent.pack(prepared.recent(90)))
    assert 20 < len(known) < 90  # what no window reaches is not brought along
    assert store.load(known, "mine") == len(known)
    assert store.has_loaded("mine")
    assert not store.has_loaded("other")
    transactions = [raw.read(row) for row in prepared.rows[90:]]
    labels = prepared.labels()
    found = []
    for start in range(0, len(transactions), per_request):
        part = transactions[start : start + per_request]
        store.remember(part)
        store.label({each.id: labels[each.id] for each in part if each.id in labels})
        found.append(derive(store, raw, part))
    agree(np.concatenate(found), prepared.X[90:])


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.integers(0, 10_000), st.data())
def test_the_order_of_arrival_within_an_instant_and_repetition_do_not_matter(
    tmp_path_factory, seed, data
):
    prepared = Prepared(shop(), table(30, seed), n_reference=30)
    raw = prepared.raw
    store = opened(str(tmp_path_factory.mktemp("store")), raw)
    transactions = [raw.read(row) for row in prepared.rows]
    store.load(prepared.recent(30), "labels")
    order = data.draw(st.permutations(transactions))
    n_new = store.remember(order) + store.remember(order[:5])
    assert store.status().n == 30
    assert n_new <= 30
    agree(derive(store, raw, transactions), prepared.X)


def test_what_is_only_scored_leaves_no_trace_and_an_id_counts_once(prepared, address):
    raw, store = prepared.raw, opened(address, prepared.raw)
    first, later = raw.read(prepared.rows[0]), raw.read(prepared.rows[150])
    before = derive(store, raw, [later])
    assert store.status().n == 0
    assert store.remember([first]) == 1
    assert store.remember([first, first]) == 0
    # the same id with other content: what came first stays
    other = raw.read(prepared.rows[0] | {"eur": 9.0, "card": "zz"})
    assert store.remember([other]) == 0
    assert store.status().n == 1
    again = raw.read(prepared.rows[0] | {"t": prepared.rows[0]["t"] + 1})
    # sent again with a later time, it does not count beside itself
    agree(derive(store, raw, [again])[:, 1], np.array([1.0]))
    assert before.shape == (1, len(raw.features))


def test_labels_of_unknown_transactions_are_told(prepared, address):
    raw, store = prepared.raw, opened(address, prepared.raw)
    store.remember([raw.read(prepared.rows[0])])
    assert store.label({"T0": 1, "T9": 0}) == ["T9"]
    assert store.status().n_labelled == 1
    assert store.label({"T0": None}) == []  # taken back
    assert store.status().n_labelled == 0


def test_what_no_window_reaches_is_dropped_and_nothing_else(address):
    prepared = Prepared(shop(), table(1_000, step_s=1.0))
    raw, store = prepared.raw, opened(address, prepared.raw)
    transactions = [raw.read(row) for row in prepared.rows]
    store.remember(transactions)
    store.label(prepared.labels())
    n_dropped = 0
    while n := store.prune(raw, 100):
        assert n <= 100
        n_dropped += n
    newest = sorted(each.t for each in transactions)[-N_AHEAD]
    reach = raw.oldest
    out = [each for each in transactions if each.t <= newest - reach]
    last_of = {each.texts["card"]: each.id for each in transactions}
    expected = [
        each for each in out if last_of[each.texts["card"]] != each.id or not each.texts["card"]
    ]
    assert n_dropped == len(expected) > 300
    tail = transactions[-N_AHEAD:]
    agree(derive(store, raw, tail), prepared.X[-N_AHEAD:])


def test_one_wrong_clock_drops_nothing(prepared, address):
    raw, store = prepared.raw, opened(address, prepared.raw)
    store.remember([raw.read(row) for row in prepared.rows])
    store.remember([raw.read(prepared.rows[0] | {"nr": "late", "t": 4e9})])
    assert store.prune(raw, 1_000) < 100
    tail = [raw.read(row) for row in prepared.rows[-60:]]
    store.label(prepared.labels())
    agree(derive(store, raw, tail)[-20:], prepared.X[-20:])


def test_another_recipe_finds_what_was_remembered_for_the_first(address):
    frame = table(120)
    first = Prepared(shop([{"count": "card", "within": "10s"}]), frame)
    store = opened(address, first.raw)
    labels = first.labels()
    store.load(first.recent(len(frame)), "first")  # the first recipe's reach is short
    store.remember([first.raw.read(row) for row in first.rows])
    store.label(labels)
    # new columns, a new entity: what the first did not know comes with the second's own history
    second = Prepared(shop(), frame)
    store.prepare(second.raw)
    n_before = store.status().n
    assert store.load(second.recent(60), "second") == 0
    assert store.status().n == n_before
    rest = [second.raw.read(row) for row in second.rows[60:]]
    for transaction in rest:
        store.remember([transaction])
    assert store.status().n == n_before
    store.load(second.recent(len(frame)), "all")
    agree(derive(store, second.raw, rest), second.X[60:])
    # and the first goes on beside it
    store.prepare(first.raw)
    last = [first.raw.read(row) for row in first.rows[-20:]]
    agree(derive(store, first.raw, last), first.X[-20:])


def test_data_sets_are_kept_apart(prepared, address):
    one, two = (opened(address, prepared.raw, name) for name in ("one", "two"))
    one.remember([prepared.raw.read(row) for row in prepared.rows])
    assert (one.status().n, two.status().n) == (200, 0)


def test_a_file_of_another_data_set_is_refused(prepared, tmp_path):
    path = str(tmp_path / "mine.sqlite")
    opened(path, prepared.raw, "one")
    with pytest.raises(StoreError, match="transactions of one, not of two"):
        opened(path, prepared.raw, "two")


def test_two_processes_write_to_one_file(prepared, tmp_path):
    raw = prepared.raw
    transactions = [raw.read(row) for row in prepared.rows]
    stores = [opened(str(tmp_path / "both.sqlite"), raw) for _ in range(2)]

    def work(store):
        return sum(store.remember([each]) for each in transactions)

    with ThreadPoolExecutor(2) as pool:
        n_new = list(pool.map(work, stores))
    assert sum(n_new) == 200
    assert stores[0].status().n == 200


def test_a_place_that_cannot_be_written_to_is_said(prepared, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="FRAUD_HISTORY"):
        opened(str(tmp_path / "file" / "below"), prepared.raw)
    (tmp_path / "broken.sqlite").write_bytes(b"no database at all, " * 500)
    with pytest.raises(StoreError, match=r"broken\.sqlite"):
        opened(str(tmp_path / "broken.sqlite"), prepared.raw)


def test_a_store_that_was_lost_is_made_anew(prepared, tmp_path):
    raw, path = prepared.raw, tmp_path / "lost.sqlite"
    store = opened(str(path), raw)
    store.remember([raw.read(prepared.rows[0])])
    store.close()
    for file in tmp_path.glob("lost*"):
        file.unlink()
    assert store.status().n == 0


# --- one transaction, cell by cell


@pytest.mark.parametrize(
    ("change", "column", "word"),
    [
        ({"eur": "12"}, "eur", "number"),
        ({"eur": -1}, "eur", "negative"),
        ({"eur": 1e300}, "eur", "range of float32"),
        ({"lat": -1e39}, "lat", "range of float32"),
        ({"t": "2024-01-01"}, "t", "number"),
        ({"t": None}, "t", "number"),
        ({"t": True}, "t", "number"),
        ({"t": 1e300}, "t", "far away"),
        ({"card": ["a"]}, "card", "text"),
        ({"card": 1.5}, "card", "text"),
        ({"nr": {}}, "nr", "text"),
    ],
)
def test_a_wrong_cell_is_named(prepared, change, column, word):
    with pytest.raises(CellError, match=word) as caught:
        prepared.raw.read(prepared.rows[0] | change)
    assert caught.value.column == column


def test_a_column_that_is_not_there_is_named_and_others_are_left_out(prepared):
    row = dict(prepared.rows[0])
    prepared.raw.read(row | {"colour": "blue"})
    for column in prepared.raw.columns:
        less = {name: value for name, value in row.items() if name != column}
        with pytest.raises(CellError, match="is missing") as caught:
            prepared.raw.read(less)
        assert caught.value.column == column


@pytest.mark.parametrize("value", [None, "", " NA ", "null", "-"])
def test_text_that_says_nothing_is_missing_as_in_tables(prepared, value):
    assert prepared.raw.read(prepared.rows[0] | {"card": value}).texts["card"] is None


@pytest.mark.parametrize(("value", "text"), [(7, "7"), (7.0, "7"), (" x ", "x"), ("7", "7")])
def test_an_entity_is_text_as_in_tables(prepared, value, text):
    assert prepared.raw.read(prepared.rows[0] | {"card": value}).texts["card"] == text


def dated(time="2024-03-31T01:30:00", **description):
    frame = table(4).assign(t=[time] * 4)
    derived = [{"time": part} for part in ("hour_of_day", "day_of_week", "is_night", "is_weekend")]
    return Prepared(shop(derived, **description), frame, n_reference=4)


@pytest.mark.parametrize(
    "written",
    [
        "2024-03-31T01:30:00",
        "2024-03-31 01:30",
        "2024-03-31T01:30:00Z",
        "2024-03-31 01:30:00 UTC",
        "2024-03-31T03:30:00+02:00",
        " 2024-03-31T01:30:00.000000900 ",
    ],
)
@pytest.mark.parametrize("timezone", [None, "Europe/Paris", "America/St_Johns"])
def test_a_date_is_what_it_is_in_a_table(written, timezone):
    prepared = dated(written, timezone=timezone)
    transaction = prepared.raw.read(prepared.rows[0] | {"t": written})
    agree(prepared.raw.matrix([transaction], [{}]), prepared.X[:1])


@pytest.mark.parametrize("written", ["31/03/2024 01:30", 1711848600, None, "2024-13-01", "now"])
def test_what_is_no_date_is_refused(written):
    with pytest.raises(CellError, match=r"ISO 8601|date"):
        dated().raw.read(dated().rows[0] | {"t": written})


def test_own_formats_pairs_and_units_of_time():
    prepared = dated("31/03/2024 01:30", time_format="%d/%m/%Y %H:%M")
    for written in ("31/03/2024 01:30", "2024-03-31T01:30:00Z"):
        transaction = prepared.raw.read(prepared.rows[0] | {"t": written})
        agree(prepared.raw.matrix([transaction], [{}]), prepared.X[:1])
    frame = table(4).assign(day="2024-03-31", clock="01:30:00")
    pair = Prepared(shop([{"time": "hour_of_day"}], time=["day", "clock"]), frame, n_reference=4)
    assert set(pair.raw.time) == {"day", "clock"}
    agree(pair.raw.matrix([pair.raw.read(pair.rows[0])], [{}]), pair.X[:1])
    hours = Prepared(shop(time_unit="h"), table(40), n_reference=40)
    transactions = [hours.raw.read(row) for row in hours.rows]
    assert transactions[-1].t == round(table(40)["t"].iloc[-1] * 3600 * 1e6)


def test_offsets_change_in_the_middle_of_an_hour():
    # clocks of St John's changed at 00:01 until 2011
    times = [
        "2010-03-14T03:30:59",
        "2010-03-14T03:31:00",
        "2010-11-07T02:30:59",
        "2010-11-07T02:31",
    ]
    frame = table(4).assign(t=times)
    derived = [{"time": "hour_of_day"}]
    found = Prepared(shop(derived, timezone="America/St_Johns"), frame, n_reference=4)
    assert found.X[:, 1].tolist() == [0, 1, 0, 23]


def test_categories_in_the_words_of_the_table(prepared):
    raw = prepared.raw
    transaction = raw.read(prepared.rows[0] | {"kind": "fuel"})
    said = raw.category("kind", transaction)
    share = (table()["kind"][:50] == "fuel").mean()
    assert said == {"column": "kind", "value": "fuel", "share_of_reference": pytest.approx(share)}
    unseen = raw.category("kind", raw.read(prepared.rows[0] | {"kind": "toys"}))
    assert unseen["share_of_reference"] == 0
    assert raw.category("eur", transaction) is None


@pytest.mark.parametrize(
    ("value", "meaning"),
    [(1, 1), (0, 0), ("yes", 1), (False, 0), (None, None), ("", None), ("1.0", 1)],
)
def test_labels_in_the_words_of_tables(prepared, value, meaning):
    assert prepared.raw.known_label(value) == meaning


def test_own_words_of_labels():
    label = {"column": "fraud", "fraud": ["stolen"], "genuine": ["fine"], "unknown": ["open"]}
    frame = table(6).assign(fraud=["stolen", "fine", "open", None, "Fine", " STOLEN "])
    raw = Prepared(shop(label=label), frame, n_reference=6).raw
    assert [raw.known_label(word) for word in ("Stolen", "fine", "open", None)] == [
        1,
        0,
        None,
        None,
    ]
    with pytest.raises(CellError):
        raw.known_label("maybe")


# --- the file that a bundle brings along


def test_a_history_is_packed_to_the_same_bytes_and_back(prepared):
    known = prepared.recent(200)
    content = recent.pack(known)
    assert content == recent.pack(known)
    back = recent.unpack(content)
    assert list(back.ids) == list(known.ids)
    for column, words in known.texts.items():
        assert list(back.texts[column]) == list(words)
    for column, values in known.numbers.items():
        np.testing.assert_array_equal(back.numbers[column], values)
    np.testing.assert_array_equal(back.fraud, known.fraud)


def test_what_is_no_history_is_refused():
    for content in (b"", b"no archive", recent.pack(Prepared(shop(), table(60)).recent(60))[:-40]):
        with pytest.raises(BundleError, match="no history"):
            recent.unpack(content)


def test_a_recipe_survives_json(prepared):
    again = RawTable(json.loads(json.dumps(prepared.manifest)))
    assert again.recipe == prepared.raw.recipe
    assert again.columns == prepared.raw.columns


# --- a file of later transactions


@pytest.mark.parametrize("overlap", [0, 15])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_file_of_later_transactions_is_scored_behind_the_bundles_history(
    tmp_path, overlap, shuffled
):
    raw_table = table()
    prepared = Prepared(shop(), raw_table)
    n_before = 90
    model = bundle.load(prepared.write(tmp_path / "served", n_before))
    later = raw_table.iloc[n_before - overlap :]
    order = np.arange(len(later))
    if shuffled:
        order = np.random.default_rng(1).permutation(order)
    later.iloc[order].to_csv(tmp_path / "later.csv", index=False)
    found = score_table(prepared.dataset, tmp_path / "later.csv", model, tmp_path / "out")
    assert found.report["n"] == len(later)
    scores = pd.read_parquet(tmp_path / "out" / "scores.parquet")
    assert scores["nr"].tolist() == later["nr"].iloc[order].tolist()
    expected = model.anomaly_score(prepared.X.astype(np.float32))[n_before - overlap :]
    # what the history does not hold any more is missed by rows that lie within it
    found = scores["anomaly_score"].to_numpy()[np.argsort(order)]
    np.testing.assert_allclose(found[overlap:], expected[overlap:], rtol=1e-5)


def test_a_file_without_labels_is_scored(tmp_path):
    prepared = Prepared(shop(), table())
    model = bundle.load(prepared.write(tmp_path / "served", 90))
    table().iloc[90:].drop(columns="fraud").to_csv(tmp_path / "later.csv", index=False)
    found = score_table(prepared.dataset, tmp_path / "later.csv", model, tmp_path / "out")
    assert (found.report["n"], found.report["realised"]) == (110, None)


def test_a_file_of_categories_is_scored_by_the_encoders_of_the_bundle(tmp_path):
    prepared = Prepared(shop([{"category": "kind"}]), table())
    model = bundle.load(prepared.write(tmp_path / "served", 0))
    table().to_csv(tmp_path / "later.csv", index=False)
    score_table(prepared.dataset, tmp_path / "later.csv", model, tmp_path / "out")
    found = pd.read_parquet(tmp_path / "out" / "scores.parquet")["anomaly_score"]
    np.testing.assert_allclose(found, model.anomaly_score(prepared.X.astype(np.float32)), rtol=1e-5)


@pytest.mark.parametrize("gap", [False, True])
def test_a_gap_behind_the_bundles_history_is_said(tmp_path, capsys, gap):
    prepared = Prepared(shop(), table())
    model = bundle.load(prepared.write(tmp_path / "served", 90))
    later = table().iloc[90:]
    later = later.assign(t=later["t"] + (500.0 if gap else 0.0))
    later.to_csv(tmp_path / "later.csv", index=False)
    score_table(prepared.dataset, tmp_path / "later.csv", model, tmp_path / "out")
    assert ("windows lack what came in between" in capsys.readouterr().out) == gap


def test_an_example_of_a_raw_transaction_can_be_read(prepared):
    now = datetime(2024, 7, 1, 10, tzinfo=UTC)
    row = prepared.raw.example({"eur": 12.34567}, now)
    assert row["eur"] == 12.35
    assert row["kind"] == "food"  # the most frequent one of reference, or near it
    prepared.raw.read(row)
    written = dated().raw.example({}, now)
    assert written["t"] == "2024-07-01T10:00:00Z"
    dated().raw.read(written)
