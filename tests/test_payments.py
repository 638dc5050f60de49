"""Simulated raw payments: what a row is, three kinds of fraud, look-alikes, drift where written."""

import hashlib

import numpy as np
import pandas as pd
import pytest

from lib.data import payment_frauds, payment_world, payments, simulators, splits
from lib.data.datasets import Dataset, load_description, prepare
from lib.data.payment_frauds import KINDS
from lib.data.payment_world import CATEGORIES, N_DAYS, SHARE, TYPICAL_EUR
from lib.data.payments import COLUMNS, DRIFTS, INFLATION, ONLINE, TACTICS, fraud_kinds, simulate
from lib.errors import DataError
from lib.production import monitoring

ROWS = 60_000
SEED = 5


@pytest.fixture(scope="module")
def frame():
    return simulate(ROWS, SEED)


@pytest.fixture(scope="module")
def still():
    return with_kinds(ROWS, SEED, drift=False)


@pytest.fixture(scope="module")
def told():
    return with_kinds(ROWS, SEED)


def with_kinds(n, seed, **asked):
    """The payments with their kind ('genuine' where they are no fraud) and distance from home."""
    table = simulate(n, seed, **asked)
    table["kind"] = "genuine"
    kinds = fraud_kinds(n, seed, **asked)
    table.loc[kinds.index, "kind"] = kinds
    north_km = 111 * (table.merchant_lat - table.home_lat)
    east_km = 76 * (table.merchant_long - table.home_long)
    table["distance_km"] = np.hypot(north_km, east_km)
    return table


def digest(table):
    return hashlib.sha256(pd.util.hash_pandas_object(table).to_numpy().tobytes()).hexdigest()


# --- what a row is


def test_columns_have_the_types_that_are_promised(frame):
    assert tuple(frame.columns) == COLUMNS
    assert str(frame.paid_at.dtype) == "datetime64[s, UTC]"
    degrees = ["home_lat", "home_long", "merchant_lat", "merchant_long"]
    assert (frame[["amount", *degrees]].dtypes == "float64").all()
    assert frame.fraud.dtype == "int64"
    assert set(frame.fraud) == {0, 1}
    assert frame.drop(columns="category").notna().all().all()


def test_ids_look_as_they_should(frame):
    assert frame.transaction.is_unique
    assert frame.transaction.iloc[0] == "T0000001"
    assert frame.card.str.fullmatch(r"C\d{5}").all()
    assert frame.merchant.str.fullmatch(r"M\d{4}").all()


def test_rows_are_in_time_order_over_the_whole_span(frame):
    assert frame.paid_at.is_monotonic_increasing
    start = pd.Timestamp("2024-01-01", tz="UTC")
    days = (frame.paid_at - start) / pd.Timedelta(days=1)
    assert days.between(0, N_DAYS).all()
    assert days.iloc[-1] > N_DAYS - 1
    # every tenth of the rows takes about a tenth of the time
    tenths = days.iloc[:: ROWS // 10].diff().dropna()
    assert tenths.between(0.7 * N_DAYS / 10, 1.3 * N_DAYS / 10).all()


def test_a_card_has_one_home_and_a_merchant_one_place_and_category(frame):
    homes = frame.groupby("card")[["home_lat", "home_long"]].nunique()
    assert (homes == 1).all().all()
    merchants = frame.groupby("merchant")[["merchant_lat", "merchant_long", "category"]].nunique()
    assert (merchants <= 1).all().all()


def test_categories_are_known_and_a_few_are_missing(frame):
    assert set(frame.category.dropna()) == set(CATEGORIES)
    assert frame.category.isna().mean() == pytest.approx(0.005, abs=0.001)


def test_amounts_are_whole_cents_of_everyday_size(still):
    assert (still.amount == still.amount.round(2)).all()
    assert (still.amount >= payments.LEAST_EUR).all()
    genuine = still[still.kind == "genuine"]
    median = genuine.groupby("category").amount.median()
    typical = pd.Series(TYPICAL_EUR, list(CATEGORIES))
    assert (median / typical).between(0.7, 1.4).all()


def test_same_seed_same_table_other_seed_other_people(frame):
    assert digest(simulate(ROWS, SEED)) == digest(frame)
    other = simulate(ROWS, SEED + 1)
    assert not set(other.home_lat) & set(frame.home_lat)
    assert (other.fraud != frame.fraud).any()


@pytest.mark.parametrize("n", [20_000, 80_000])
def test_histories_are_equally_long_whatever_the_number_of_rows(n):
    table = simulate(n, seed=1)
    per_day = len(table) / table.card.nunique() / N_DAYS
    assert per_day == pytest.approx(payment_world.PER_CARD_DAY, rel=0.05)


@pytest.mark.parametrize("n", [payments.MIN_ROWS, 3_000, 5_000])
@pytest.mark.parametrize("seed", [0, 1])
def test_few_rows_still_hold_every_kind_of_fraud(n, seed):
    table = simulate(n, seed)
    kinds = fraud_kinds(n, seed)
    assert len(table) == n
    assert 30 <= table.fraud.sum() <= 0.1 * n
    assert set(kinds) == set(KINDS)


def test_too_few_rows_are_refused():
    with pytest.raises(DataError, match="rows is 500"):
        simulate(500)


# --- frauds


@pytest.mark.parametrize("seed", range(3))
def test_about_seven_in_a_thousand_are_frauds(seed):
    table = simulate(100_000, seed)
    assert table.fraud.mean() == pytest.approx(payments.PREVALENCE, rel=0.2)


def test_kinds_are_those_of_the_frauds_and_have_their_shares():
    found = pd.concat([with_kinds(100_000, seed, drift=False) for seed in range(3)])
    assert ((found.kind != "genuine") == (found.fraud == 1)).all()
    shares = found.kind[found.fraud == 1].value_counts(normalize=True)
    for name, kind in KINDS.items():
        assert shares[name] == pytest.approx(kind.share, abs=0.08)


def test_a_large_amount_is_large_for_its_card(still):
    genuine = still[still.kind == "genuine"]
    usual = genuine.groupby("card").amount.mean()
    large = still[still.kind == "large"]
    times = large.amount / large.card.map(usual)
    assert times.quantile(0.05) > 3
    all_times = genuine.amount / genuine.card.map(usual)
    assert (all_times > 3).mean() < 0.05
    # expensive purchases, which nobody can tell from a fraud by the amount
    assert (all_times > times.quantile(0.05)).sum() > len(large)


def leaks(table):
    """The busiest compromised merchants: their payments since the first fraud, until the last."""
    compromised = table[table.kind == "compromised"]
    for merchant, frauds in list(compromised.groupby("merchant")):
        if len(frauds) >= 10:
            is_open = table.paid_at.between(frauds.paid_at.min(), frauds.paid_at.max())
            yield table[(table.merchant == merchant) & is_open]


def test_a_compromised_merchant_leaks_for_weeks_and_most_of_its_payments_are_frauds(still):
    found = list(leaks(still))
    assert len(found) >= 3
    for history in found:
        days = (history.paid_at.max() - history.paid_at.min()).days
        assert 7 <= days <= payment_frauds.COMPROMISED_DAYS[1]
        assert history.fraud.mean() > 0.6
    together = pd.concat(found)
    assert together.fraud.mean() == pytest.approx(payment_frauds.COMPROMISED_RATE, abs=0.06)


def test_frauds_at_a_compromised_merchant_have_ordinary_amounts(still):
    genuine = still[still.kind == "genuine"]
    compromised = still[still.kind == "compromised"]
    usual = genuine.groupby("merchant").amount.median()
    times = compromised.amount / compromised.merchant.map(usual)
    usual_times = genuine.amount / genuine.merchant.map(usual)
    for p in (0.25, 0.5, 0.75):
        assert times.quantile(p) == pytest.approx(usual_times.quantile(p), rel=0.3)


def test_the_past_of_a_merchant_tells_its_frauds_a_week_later(still):
    """By hand: the share of frauds among its payments of 7 to 37 days before."""
    compromised = still[still.kind == "compromised"]
    later = compromised[compromised.paid_at > still.paid_at.iloc[0] + pd.Timedelta(days=60)]
    genuine = still[still.kind == "genuine"].iloc[ROWS // 2 :].sample(200, random_state=0)

    def risk(row):
        age = row.paid_at - still.paid_at
        is_past = age.between(pd.Timedelta(days=7), pd.Timedelta(days=37))
        return still.fraud[is_past & (still.merchant == row.merchant)].mean()

    risk_of_frauds = pd.Series([risk(row) for row in later.itertuples()]).fillna(0)
    risk_of_genuine = pd.Series([risk(row) for row in genuine.itertuples()]).fillna(0)
    assert (risk_of_frauds > 0.1).mean() > 0.4
    assert (risk_of_genuine > 0.1).mean() < 0.1


def test_a_stolen_card_is_used_often_for_days_while_its_owner_goes_on(still):
    stolen = still[still.kind == "stolen"]
    per_card = stolen.groupby("card").paid_at.agg(["min", "max", "size"])
    most = payment_frauds.STOLEN_PAYMENTS[1] - 1
    one_theft = per_card[(per_card["size"] <= most) & (per_card["size"] >= 5)]
    assert len(one_theft) >= 5
    lasts = one_theft["max"] - one_theft["min"]
    assert (lasts <= pd.Timedelta(days=4)).mean() > 0.8
    # many more a day than usual
    per_day = one_theft["size"] / (lasts / pd.Timedelta(days=1)).clip(lower=1)
    assert per_day.median() > 4 * payment_world.PER_CARD_DAY
    # the owner's own payments are between the thief's or after them
    of_owner = still[(still.kind == "genuine") & still.card.isin(one_theft.index)]
    since = of_owner.paid_at - of_owner.card.map(one_theft["min"])
    is_soon = since.between(pd.Timedelta(0), pd.Timedelta(days=14))
    assert of_owner[is_soon].card.nunique() > 0.8 * len(one_theft)


def test_a_thief_pays_far_from_home_and_several_times_the_usual(still):
    genuine = still[still.kind == "genuine"]
    stolen = still[still.kind == "stolen"]
    assert (stolen.distance_km > 50).mean() > 0.7
    level = genuine.groupby(["card", "category"]).amount.median().rename("usual")
    times = stolen.join(level, on=["card", "category"]).eval("amount / usual")
    assert times.median() == pytest.approx(np.mean(payment_frauds.STOLEN_TIMES), rel=0.3)
    wanted = ["clothing", "electronics", "online"]
    assert stolen.category.isin(wanted).mean() > 2 * genuine.category.isin(wanted).mean()


# --- genuine payments that look like frauds


def test_genuine_payments_are_mostly_near_home_and_often_enough_far(still):
    genuine = still[still.kind == "genuine"]
    is_far = genuine.distance_km > 50
    assert 0.1 < is_far.mean() < 0.35
    assert is_far.sum() > 20 * still.fraud.sum()


def test_customers_go_on_holiday(still):
    """Whole weeks in which a card pays in shops, and never within 50 km of home."""
    local = [name for name, category in CATEGORIES.items() if category.is_local]
    shops = still[(still.kind == "genuine") & still.category.isin(local)]
    week = (shops.paid_at - still.paid_at.iloc[0]).dt.days // 7
    nearest = shops.groupby([shops.card, week]).distance_km.agg(["min", "size"])
    away = nearest[(nearest["min"] > 50) & (nearest["size"] >= 3)]
    assert away.index.get_level_values("card").nunique() > 0.1 * still.card.nunique()


def test_some_cards_are_new_and_some_days_are_busy(still):
    first = still.groupby("card").paid_at.min()
    late = first > still.paid_at.iloc[0] + pd.Timedelta(days=30)
    assert 0.1 < late.mean() < 0.25
    genuine = still[still.kind == "genuine"]
    per_day = genuine.groupby(["card", genuine.paid_at.dt.date]).size()
    # far more often than a thief makes such a day
    n_robbed = still.card[still.kind == "stolen"].nunique()
    assert (per_day >= 5).sum() > 5 * n_robbed


def test_cards_have_habits(still):
    genuine = still[still.kind == "genuine"]
    hour = genuine.paid_at.dt.hour
    assert 0.9 < hour.between(6, 22).mean() < 0.995
    mean_hour = hour.groupby(genuine.card).mean()
    assert mean_hour.std() > 1.5
    used = genuine.groupby("card").category.nunique()
    assert (used < len(CATEGORIES)).mean() > 0.5
    # half of the payments of a category go to one merchant
    groceries = genuine[genuine.category == "groceries"]
    share = groceries.groupby("card").merchant.agg(lambda m: m.value_counts(normalize=True).iloc[0])
    assert 0.3 < share.median() < 0.8


# --- drift


def test_the_rows_before_the_untouched_period_are_the_same_without_drift(told, still):
    begins = min(drift.begins for drift in DRIFTS)
    before = slice(0, int(begins * ROWS))
    pd.testing.assert_frame_equal(told[before], still[before])
    assert begins >= 0.7


def test_prices_rise_from_their_batch_on(told, still):
    same = (told.merchant == still.merchant) & (told.kind == still.kind)
    same &= told.card == still.card
    times = (told.amount / still.amount)[same & (still.amount > 20)]
    begins = int(INFLATION.begins * ROWS) + 1
    assert (times[times.index < begins - 1] == 1).all()
    assert times[times.index >= begins].to_numpy() == pytest.approx(INFLATION.strength, rel=1e-3)


def test_payments_move_online_from_their_batch_on(told, still):
    genuine = (told.kind == "genuine") & (still.kind == "genuine")
    genuine &= told.category.notna()
    begins = int(ONLINE.begins * ROWS) + 1
    moved = (told.category == "online") & (still.category != "online") & genuine
    assert moved[: begins - 1].sum() == 0
    was_elsewhere = genuine[begins:] & (still.category[begins:] != "online")
    share = moved[begins:].sum() / was_elsewhere.sum()
    assert share == pytest.approx(ONLINE.share, abs=0.02)


def test_tactics_shift_to_stolen_credentials_from_their_batch_on():
    before, after = [], []
    for seed in range(3):
        kinds = fraud_kinds(100_000, seed)
        is_later = kinds.index >= TACTICS.begins * 100_000
        before.append(kinds[~is_later])
        after.append(kinds[is_later])
    before = pd.concat(before).value_counts(normalize=True)
    after = pd.concat(after).value_counts(normalize=True)
    for name, kind in KINDS.items():
        assert before[name] == pytest.approx(kind.share, abs=0.1)
        assert after[name] == pytest.approx(kind.later, abs=0.15)


def test_shares_add_up():
    assert sum(kind.share for kind in KINDS.values()) == pytest.approx(1)
    assert sum(kind.later for kind in KINDS.values()) == pytest.approx(1)
    assert SHARE.sum() == pytest.approx(1)
    assert payment_world.WANTED.sum() == pytest.approx(1)


# --- as a data set


def test_the_description_fits_the_table(frame):
    dataset = load_description("payments")
    assert simulators.of(dataset) is simulators.PAYMENTS
    assert set(dataset.columns) == set(COLUMNS)
    checked = prepare(dataset, frame.copy(), "payments")
    assert checked.fraud.sum() == frame.fraud.sum()
    assert (checked.card == frame.card).all()


def test_card_data_are_simulated_unless_the_description_says_otherwise():
    dataset = load_description("simulated")
    assert dataset.to_dict()["simulation"] == {"rows": 60_000, "seed": 0, "drift": True}
    assert simulators.of(dataset) is simulators.CARD_DATA


def test_a_simulator_that_does_not_exist_is_refused():
    mapping = load_description("payments").to_dict()
    mapping["simulation"] = {"rows": 5_000, "of": "cheques"}
    with pytest.raises(DataError, match=r"'cheques'.*'payments'"):
        Dataset.from_dict(mapping)


def test_an_edit_of_any_of_its_files_makes_other_data(tmp_path, monkeypatch):
    found = {splits.find("payments", rows=3_000).source_id}
    for module in (payments, payment_world, payment_frauds):
        edited = tmp_path / "edited.py"
        edited.write_text("# another\n")
        with monkeypatch.context() as patch:
            patch.setattr(module, "__file__", str(edited))
            found.add(splits.find("payments", rows=3_000).source_id)
    assert len(found) == 4


def test_known_drift_names_only_what_models_see(tmp_path, frame):
    dataset = load_description("payments")
    checked = prepare(dataset, frame.copy(), "payments")
    split = splits.make(dataset, checked, tmp_path / "s", source="simulated", raw_sha256=None)
    found = {drift.what: set(drift.features) for drift in monitoring.injected(split)}
    assert set(found) == {"inflation", "online", "fraud"}
    of_amounts = {name for name in dataset.features if name.startswith("amount")}
    of_merchants = {name for name in dataset.features if "merchant" in name}
    assert len(of_amounts) == 8
    assert len(of_merchants) == 6
    assert found["inflation"] == of_amounts
    assert found["online"] == {"category", "distance_km", *of_merchants}
    assert set(dataset.features) - found["fraud"] == {"hour_of_day", "is_night"}


def test_a_drift_names_its_own_columns_before_what_is_derived_from_them(tmp_path, frame):
    dataset = load_description("payments")
    checked = prepare(dataset, frame.copy(), "payments")
    split = splits.make(dataset, checked, tmp_path / "s", source="simulated", raw_sha256=None)
    first = [drift.features[0] for drift in monitoring.injected(split)]
    assert first == ["amount", "category", "amount"]
    step = {"drifted": ["amount_max_card_7d", "distance_km"], "fraud_drifted": []}
    card = monitoring.scorecard([step] * 10, monitoring.injected(split))
    # the amounts from batch 3 on, the distances from batch 4 on
    assert card["n_false"] == 2 + 3
    assert [row["noticed"] for row in card["noticed"]] == [3, 4, None]
    assert card["noticed"][0]["features"].startswith("amount, ")
