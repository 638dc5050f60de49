"""A bar in JupyterLab only."""

from lib import progress


def test_nothing_is_shown_where_nobody_watches(monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert list(progress.steps(range(3), "epoch")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")


def test_a_bar_counts_the_steps_in_jupyterlab(monkeypatch, capsys):
    monkeypatch.setenv("JPY_SESSION_NAME", "notebooks/04_autoencoder.ipynb")
    assert list(progress.steps(iter("abc"), "member", total=3)) == ["a", "b", "c"]
    out, err = capsys.readouterr()
    assert "members" in out + err
