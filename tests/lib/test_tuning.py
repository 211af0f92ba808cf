"""The learning-rate search: seeded, on images held out of the training split, with pruning, and the same trials
whether it was interrupted or not."""

from __future__ import annotations

import math
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from optuna.storages.journal import JournalFileSymlinkLock
from optuna.trial import TrialState
from scipy import stats

from nonsmooth import training, tuning
from nonsmooth.cells import TrainingCell
from nonsmooth.images import Images
from nonsmooth.training import Run, Settings

MakeCell = Callable[..., TrainingCell]
COLUMNS = ["trial", "learning_rate", "epochs", "accuracy", "pruned", "chosen"]


@pytest.fixture(autouse=True)
def quiet() -> None:
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def smooth(rate: float, epoch: int) -> float:
    """An accuracy that is best at a rate of 0.01, and grows a little."""
    return 1 - abs(math.log10(rate) + 2) / 4 + epoch / 1000


class Fake:
    """Takes the place of `training.train`: accuracy is a function of rate and epoch, and calls are kept."""

    def __init__(self, accuracy: Callable[[float, int], float] = smooth) -> None:
        self.accuracy, self.calls, self.epochs = accuracy, [], []

    def __call__(self, cell: TrainingCell, fit: Images, check: Images, settings: Settings, on_epoch: Callable) -> Run:
        self.calls.append((cell, fit, check, settings))
        self.epochs.append(0)
        run = Run()
        for epoch in range(1, cell.epochs + 1):
            self.epochs[-1] = epoch
            run.metrics.append({"epoch": epoch, "test_accuracy": self.accuracy(cell.learning_rate, epoch)})
            on_epoch(run.metrics[-1])
        return run


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Fake:
    trained = Fake()
    monkeypatch.setattr(training, "train", trained)
    return trained


@pytest.fixture(scope="module")
def blank() -> Images:
    """Ten images that nothing looks at."""
    one = torch.ones(1, 1, 1)
    return Images(torch.zeros(10, 1, 28, 28, dtype=torch.uint8), torch.arange(10), one, one)


def search(cell: TrainingCell, data: Images, trials: int, journal: Path | None = None) -> pd.DataFrame:
    return tuning.trial_table(tuning.search(cell, data, Settings(), trials, journal))


# ------------------------------------------------------------------------------------------------- the trials


def test_a_seeded_search_repeats(make_cell: MakeCell, train_set: Images) -> None:
    cell = make_cell(precision="float16", rule="hybrid-10-exact", normalization="batch_norm", batch_size=32)
    first = search(cell, train_set, 2)
    pd.testing.assert_frame_equal(search(cell, train_set, 2), first, check_exact=True)
    assert first.learning_rate.nunique() == 2
    assert first.accuracy.between(0.05, 1).all()


def test_rates_are_log_uniform_and_depend_on_the_seed(fake: Fake, make_cell: MakeCell, blank: Images) -> None:
    tables = [search(make_cell(seed=seed), blank, 4) for seed in range(15)]
    rates = pd.concat(tables).learning_rate
    assert rates.between(tuning.LOWEST, tuning.HIGHEST).all()
    assert rates.nunique() == len(rates)
    logarithms = rates.map(math.log10)
    assert stats.kstest(logarithms, stats.uniform(-5, 4).cdf).pvalue > 0.01
    assert (tuning.LOWEST, tuning.HIGHEST) == (1e-5, 1e-1)


def test_held_out_images_are_every_fifth_and_never_trained_on(
    fake: Fake, make_cell: MakeCell, train_set: Images
) -> None:
    # Number the images, so that they can be told apart.
    images = torch.arange(len(train_set), dtype=torch.uint8).view(-1, 1, 1, 1).expand_as(train_set.images)
    settings = Settings(threads=1)
    cell = make_cell(rule="hybrid-1000-composed", learning_rate="search", epochs=7, seed=3)
    study = tuning.search(cell, replace(train_set, images=images), settings, trials=2)
    for (tried, fit, check, given), trial in zip(fake.calls, study.trials, strict=True):
        fitted, checked = (set(data.images[:, 0, 0, 0].tolist()) for data in (fit, check))
        assert checked == set(range(4, 200, 5))
        assert fitted == set(range(200)) - checked
        for data in (fit, check):
            assert torch.equal(data.labels, train_set.labels[data.images[:, 0, 0, 0].long()])
        # A fifth of each class, since the split is sorted by class.
        assert check.labels.bincount().tolist() == [4] * 10
        assert tried == replace(cell, learning_rate=trial.params["learning_rate"])
        assert given is settings


def test_the_table_is_the_trials(fake: Fake, make_cell: MakeCell, blank: Images) -> None:
    study = tuning.search(make_cell(epochs=3), blank, Settings(), trials=6)
    table = tuning.trial_table(study)
    assert list(table) == COLUMNS
    assert table.trial.tolist() == [1, 2, 3, 4, 5, 6]
    rates = [cell.learning_rate for cell, *_ in fake.calls]
    assert table.learning_rate.tolist() == rates
    assert table.epochs.tolist() == fake.epochs
    assert table.accuracy.tolist() == [smooth(rate, epochs) for rate, epochs in zip(rates, fake.epochs, strict=True)]
    assert table.pruned.tolist() == [epochs < 3 for epochs in fake.epochs]
    (chosen,) = table[table.chosen].to_dict("records")
    complete = table[~table.pruned]
    assert chosen["accuracy"] == complete.accuracy.max() == study.best_value
    assert chosen["learning_rate"] == study.best_params["learning_rate"]


def test_the_first_of_equal_rates_is_chosen(
    make_cell: MakeCell, blank: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With and without a journal."""
    monkeypatch.setattr(training, "train", Fake(lambda rate, epoch: 0.1))
    for journal in (None, tmp_path / "trials.journal"):
        assert search(make_cell(), blank, 3, journal).chosen.tolist() == [True, False, False]


def test_a_trial_below_the_median_is_pruned_from_its_second_epoch_on(
    make_cell: MakeCell, blank: Images, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once five trials are finished."""
    accuracies = [0.5, 0.6, 0.7, 0.8, 0.9, 0.1, 0.95]
    fake = Fake(lambda rate, epoch: accuracies[len(fake.calls) - 1] + epoch / 1000)
    monkeypatch.setattr(training, "train", fake)
    study = tuning.search(make_cell(epochs=6), blank, Settings(), trials=7)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 5 + [TrialState.PRUNED, TrialState.COMPLETE]
    assert fake.epochs == [6] * 5 + [tuning.WARMUP_EPOCHS, 6]
    table = tuning.trial_table(study)
    assert table.pruned.tolist() == [False] * 5 + [True, False]
    assert table.accuracy[5] == 0.1 + 2 / 1000
    assert table.chosen.tolist() == [False] * 6 + [True]


def test_pruning_stops_a_real_run(make_cell: MakeCell, train_set: Images, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a pruner that finds every accuracy too low."""
    monkeypatch.setattr(optuna.pruners, "MedianPruner", lambda **_: optuna.pruners.ThresholdPruner(lower=1.1))
    study = tuning.search(make_cell(batch_size=160, epochs=3), train_set, Settings(), trials=1)
    (trial,) = study.trials
    assert trial.state is TrialState.PRUNED
    assert list(trial.intermediate_values) == [1]


def test_a_run_that_diverges_is_a_trial(make_cell: MakeCell, train_set: Images) -> None:
    """In 16 bits nearly every rate does with the composed rule, and it ends with the accuracy that it scores."""
    cell = make_cell(precision="float16", rule="hybrid-1e+30-composed", batch_size=160, epochs=3)
    table = search(cell, train_set, 1)
    assert table.epochs.tolist() == [1]
    assert table.accuracy.tolist() == [0.1]
    assert table.pruned.tolist() == [False]


# ------------------------------------------------------------------------------------------------ the journal


def test_a_journal_changes_nothing(fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path) -> None:
    """Also where Optuna's sampler has begun to look at earlier trials, after ten."""
    cell = make_cell(epochs=3)
    journal = tmp_path / "new" / "folder" / "trials.journal"
    expected = search(cell, blank, 14)
    pd.testing.assert_frame_equal(search(cell, blank, 14, journal), expected, check_exact=True)
    assert {path.name for path in journal.parent.iterdir()} == {"trials.journal"}
    calls = len(fake.calls)
    pd.testing.assert_frame_equal(search(cell, blank, 14, journal), expected, check_exact=True)
    assert len(fake.calls) == calls
    assert expected.pruned.any()


def test_a_search_that_is_cut_off_anywhere_goes_on_with_the_same_trials(
    fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path
) -> None:
    """A killed search leaves a part of its journal's lines. The sixth trial is the first that can be pruned."""
    cell, journal = make_cell(epochs=3), tmp_path / "trials.journal"
    expected = search(cell, blank, 6, journal)
    assert expected.pruned.tolist() == [False] * 5 + [True]
    lines = journal.read_bytes().splitlines(keepends=True)
    # A trial is six lines, so that steps of five meet each of them.
    for number in range(0, len(lines) + 1, 5):
        journal.write_bytes(b"".join(lines[:number]))
        fake.calls.clear()
        pd.testing.assert_frame_equal(search(cell, blank, 6, journal), expected, check_exact=True)
        finished = sum(b'"state":' in line for line in lines[:number])
        assert len(fake.calls) == 6 - finished


def test_a_search_can_be_cut_off_again_and_again(
    fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In long searches too, where the sampler looks at earlier trials: the trials of killed ones do not count."""
    cell, journal = make_cell(epochs=3), tmp_path / "trials.journal"
    expected = search(cell, blank, 16)

    class Killed(BaseException):
        pass

    draws, left, kills = random.Random(0), [0], 0

    def killed(rate: float, epoch: int) -> float:
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        return smooth(rate, epoch)

    monkeypatch.setattr(training, "train", Fake(killed))
    table = None
    while table is None:
        left[0] = draws.randrange(1, 9)
        try:
            table = search(cell, blank, 16, journal)
        except Killed:
            kills += 1
    assert kills >= 8
    pd.testing.assert_frame_equal(table, expected, check_exact=True)


def test_a_failed_trial_is_tried_again(fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path) -> None:
    """As a job is that ran out of memory."""
    expected = search(make_cell(), blank, 3)

    def fails(rate: float, epoch: int) -> float:
        if len(fake.calls) == 5:
            raise MemoryError("not enough memory")
        return smooth(rate, epoch)

    fake.accuracy = fails
    with pytest.raises(MemoryError):
        search(make_cell(), blank, 3, tmp_path / "trials.journal")
    pd.testing.assert_frame_equal(search(make_cell(), blank, 3, tmp_path / "trials.journal"), expected)


def test_more_trials_extend_a_search(fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path) -> None:
    journal = tmp_path / "trials.journal"
    first = search(make_cell(), blank, 3, journal)
    fake.calls.clear()
    extended = search(make_cell(), blank, 5, journal)
    assert len(fake.calls) == 2
    unchosen = [name for name in COLUMNS if name != "chosen"]
    pd.testing.assert_frame_equal(extended[unchosen][:3], first[unchosen], check_exact=True)
    pd.testing.assert_frame_equal(extended, search(make_cell(), blank, 5), check_exact=True)


def test_fewer_trials_are_those_of_a_shorter_search(
    fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path
) -> None:
    """Or the rate would depend on what was asked for before."""
    journal = tmp_path / "trials.journal"
    search(make_cell(), blank, 5, journal)
    pd.testing.assert_frame_equal(search(make_cell(), blank, 3, journal), search(make_cell(), blank, 3))


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 7},
        {"epochs": 2},
        {"seed": 1},
        {"rule": "minimal"},
        {"precision": "float16"},
        {"schedule": "step"},
    ],
)
def test_a_journal_of_another_cell_is_refused(
    changes: dict, fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path
) -> None:
    journal = tmp_path / "trials.journal"
    search(make_cell(), blank, 1, journal)
    with pytest.raises(ValueError, match="delete it to search again") as raised:
        search(make_cell(**changes), blank, 1, journal)
    assert str(raised.value).startswith(f"{journal}: holds the search of a cell with other settings; ")
    assert "\n" not in str(raised.value)
    # What it holds is still good.
    assert len(search(make_cell(learning_rate=0.7), blank, 1, journal)) == 1
    assert len(fake.calls) == 1


@pytest.mark.parametrize("what", ["numerics version", "settings"])
def test_trials_of_another_arithmetic_do_not_count(
    what: str, fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are refused, or trained again."""
    journal, settings = tmp_path / "trials.journal", Settings()
    search(make_cell(), blank, 2, journal)
    if what == "settings":
        settings = Settings(threads=2)
    for module in ("numerics", "tuning", "training"):
        if what == "numerics version":
            monkeypatch.setattr(f"nonsmooth.{module}.NUMERICS_VERSION", 1000, raising=False)
    fake.calls.clear()
    is_refused = False
    try:
        tuning.search(make_cell(), blank, settings, 2, journal)
    except ValueError:
        is_refused = True
    assert is_refused or len(fake.calls) == 2


DAMAGES = {
    "text": b"text\n",
    "no text": b"\xff\xfe\n",
    "zeros": b"\0\0\0\0\n",
    "an object without an operation": b"{}\n",
    "an operation without a study": b'{"op_code":0}\n',
    "an empty line": b"\n",
    "a number": b"3\n",
    "a list": b"[]\n",
    "null": b"null\n",
    "an unknown operation": b'{"op_code":99,"worker_id":"a"}\n',
}


@pytest.mark.parametrize("content", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("after", [0, 5])
def test_a_damaged_journal_is_named(
    content: bytes, after: int, fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path
) -> None:
    """Also where the damage is after lines that are fine. Nothing is trained that could not be kept."""
    journal = tmp_path / "trials.journal"
    search(make_cell(), blank, 2, journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join([*lines[:after], content, *lines[after:]]))
    fake.calls.clear()
    with pytest.raises(ValueError, match="delete it to search again") as raised:
        search(make_cell(), blank, 3, journal)
    assert str(raised.value).startswith(f"{journal}: not a journal of trials")
    assert "\n" not in str(raised.value)
    assert fake.calls == []


@pytest.mark.parametrize("line", [0, 4, 8])
@pytest.mark.parametrize("kept", [1, -1], ids=["its first letter", "all but the newline"])
def test_a_line_that_was_being_written_is_lost_alone(
    line: int, kept: int, fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path
) -> None:
    """After a power failure, say, or on a full disk."""
    cell, journal = make_cell(epochs=2), tmp_path / "trials.journal"
    expected = search(cell, blank, 3, journal)
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[:line]) + lines[line][:kept])
    pd.testing.assert_frame_equal(search(cell, blank, 3, journal), expected, check_exact=True)
    pd.testing.assert_frame_equal(search(cell, blank, 3, journal), expected, check_exact=True)


# ---------------------------------------------------------------------------------------------- killed for real


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    class TookTooLong(BaseException):  # a TimeoutError is an OSError
        pass

    def stop(*_) -> None:
        raise TookTooLong

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.mark.filterwarnings("ignore:The value of `grace_period`")
def test_the_lock_of_a_killed_search_is_no_obstacle(
    fake: Fake, make_cell: MakeCell, blank: Images, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Snakemake's paths are relative to its folder, and so is the target of the link that Optuna uses as a lock."""
    monkeypatch.setattr(JournalFileSymlinkLock.__init__, "__defaults__", (1,))  # seconds until a lock is stale
    monkeypatch.chdir(tmp_path)
    journal = Path("results/trials.journal")
    expected = search(make_cell(), blank, 1, journal)

    class Killed(BaseException):
        pass

    def killed(_: JournalFileSymlinkLock) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(JournalFileSymlinkLock, "release", killed)
        with pytest.raises(Killed):
            search(make_cell(), blank, 2, journal)
    assert {path.name for path in journal.parent.iterdir()} == {"trials.journal", "trials.journal.lock"}
    with time_limit(10):
        extended = search(make_cell(), blank, 2, journal)
    assert extended.learning_rate[0] == expected.learning_rate[0]
    assert {path.name for path in journal.parent.iterdir()} == {"trials.journal"}


# LeNet-5 on a few bars whose place depends on their class. The search is killed where its journal has more lines than
# before by some number, and begun again, until it has come to its end.
PROGRAM = """
import os, random, signal, time
import torch, torch._dynamo  # which the first optimizer imports, for seconds
from pathlib import Path
from nonsmooth import training, tuning
from nonsmooth.cells import TrainingCell
from nonsmooth.images import Images

labels = torch.arange(200) // 20
images = torch.randint(60, (200, 1, 28, 28), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
for image, label in zip(images, labels):
    image[:, 2 * label + 3 : 2 * label + 7] = 255
half = torch.full((1, 1, 1), 0.5)
cell = TrainingCell(dataset="mnist_5k", architecture="lenet5", epochs=3, batch_size=32)


def search(table, *journal):
    study = tuning.search(cell, Images(images, labels, half, half), training.Settings(), 7, *journal)
    tuning.trial_table(study).to_csv(table, index=False)


def lines():
    return journal.read_bytes().count(bytes([10])) if journal.exists() else 0


journal, draws, kills = Path("trials.journal").resolve(), random.Random(0), 0
while not Path("killed.csv").exists():
    wanted = lines() + draws.randrange(2, 18)
    process = os.fork()
    if process == 0:
        search("killed.csv", journal)
        os._exit(0)
    ended = 0
    while lines() < wanted and not ended:
        ended, _ = os.waitpid(process, os.WNOHANG)
    if not ended:
        time.sleep(0.05 * draws.random())
        os.kill(process, signal.SIGKILL)
        _, status = os.waitpid(process, 0)
        kills += os.WIFSIGNALED(status)
    # A lock that a killed search holds is the subject of another test.
    Path(f"{journal}.lock").unlink(missing_ok=True)
print(kills)
search("whole.csv")
"""


def test_a_search_that_is_killed_is_one_that_was_not(tmp_path: Path) -> None:
    """SIGKILL at many moments of real training."""
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, cwd=tmp_path, text=True, capture_output=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 3
    assert (tmp_path / "killed.csv").read_text() == (tmp_path / "whole.csv").read_text()
    table = pd.read_csv(tmp_path / "whole.csv")
    assert list(table) == COLUMNS
    assert len(table) == 7
    assert table.accuracy.nunique() > 1
