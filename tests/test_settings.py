"""What users tune: presets, overrides, and errors that name the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from train.settings import PRESETS, Settings, load
from trajkit.errors import UsageError


@pytest.mark.parametrize("preset", sorted(path.stem for path in PRESETS.glob("*.toml")))
def test_every_preset_is_valid(preset: str) -> None:
    assert isinstance(load([preset]), Settings)


def test_the_papers_settings() -> None:
    eef = load(["eef"])
    assert (eef.train.epochs, eef.train.batch, eef.train.lr, eef.explore.m, eef.loop.iterations) == (6, 64, 5e-5, 5, 4)
    assert (load(["eto"]).train.lr, load(["eto"]).train.epochs) == (1e-5, 3)
    assert (load(["ipr"]).train.batch, load(["ipr"]).train.epochs) == (48, 3)


def test_later_files_and_set_win_key_by_key(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text("[train]\nlr = 1e-3\nbatch = 2\n[explore.env_args]\nseed = 1\ncolors = 3\n")
    (tmp_path / "b.toml").write_text("[train]\nbatch = 4\n[explore.env_args]\nseed = 2\n")
    found = load(
        [tmp_path / "a.toml", tmp_path / "b.toml"],
        ["explore.env_args.short=true", "loop.method=rft", "explore.temperatures=[0.2, 1]", "explore.samples=2"],
    )
    assert (found.train.lr, found.train.batch) == (1e-3, 4)
    assert found.explore.env_args == {"seed": 2, "colors": 3, "short": True}
    assert (found.loop.method, found.explore.temperatures) == ("rft", (0.2, 1.0))
    assert found.plans == ("initial",) and load().plans == ("initial", "skip_length")


def test_behaviour_cloning_may_differ() -> None:
    found = load([], ["train.lr=1e-3", "clone_train.lr=2e-3"])
    assert (found.training(0).lr, found.training(1).lr) == (2e-3, 1e-3)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[trian]\nlr = 1", r"no section \[trian\].*mean.*train"),
        ("[train]\nlearning_rate = 1", r"\[train\] has no key learning_rate"),
        ("[train]\nlr = 'fast'", r"\[train\] lr = 'fast': it must be a number"),
        ("[train]\nlr = 0", r"lr = 0\.0: it must be over 0"),
        ("[train]\nlr = nan", "it must be over 0"),
        ("[train]\nepochs = inf", "it must be over 0"),
        ("[train]\nbatch = 1.5", "it must be a whole number"),
        ("[train]\nbatch = true", "it must be a whole number"),
        ("[train]\non_long = 'cut'", "'error' or 'drop' or 'split'"),
        ("[clone_train]\nlr = -1", "it must be over 0"),
        ("[explore]\ntemperatures = [1, 2]", "2 values and samples is 1"),
        ("[explore]\ntemperatures = []", "at least one"),
        ("[explore]\nexperts = 'x'", "a list"),
        ("[explore]\nenv_args = 3", "a table"),
        ("[scratch]\nhidden = 30", "heads times an even number"),
        ("train = 3", "is a section"),
        ("[train", "no TOML"),
    ],
)
def test_a_wrong_file_is_refused_with_its_name_and_key(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=said) as error:
        load([path])
    assert "wrong.toml" in str(error.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("lr=1", "section.key=value"),
        ("train.lr", "section.key=value"),
        ("train.lr=", "a number"),
        ("a.b=1", "no section"),
    ],
)
def test_a_wrong_override_is_refused(given: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        load([], [given])


def test_an_unknown_preset_is_refused_with_a_hint() -> None:
    with pytest.raises(UsageError, match=r"did you mean|Presets: .*eef"):
        load(["eeff"])
