"""The look at texts finds what it is for."""

import matplotlib.pyplot as plt
import pytest

from .conftest import overlapping_texts, texts_outside


@pytest.fixture
def axes():
    with plt.rc_context():
        plt.rcdefaults()
        figure, axes = plt.subplots(figsize=(4, 3))
        axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[], yticks=[])
        yield axes
        plt.close(figure)


@pytest.mark.parametrize(
    ("first", "second", "angle", "overlaps"),
    [
        ((0.2, 0.5), (0.25, 0.5), 0, True),
        ((0.2, 0.5), (0.2, 0.6), 0, False),
        # The boxes around parallel slanted words meet, the words do not.
        ((0.3, 0.5), (0.42, 0.5), 45, False),
        ((0.3, 0.5), (0.33, 0.5), 45, True),
    ],
)
def test_overlapping_words(axes, first, second, angle, overlaps) -> None:
    for place, word in ((first, "first"), (second, "second")):
        axes.text(*place, word, rotation=angle)
    axes.text(0.2, 0.5, "unseen", visible=False)
    axes.figure.draw_without_rendering()
    assert overlapping_texts(axes.figure) == ([("first", "second")] if overlaps else [])
    assert texts_outside(axes.figure) == []


def test_a_word_over_the_edge(axes) -> None:
    axes.text(0.95, 0.5, "a long sentence")
    axes.figure.draw_without_rendering()
    assert texts_outside(axes.figure) == ["a long sentence"]


def test_labels_of_ticks_that_are_not_shown_do_not_count(axes) -> None:
    axes.set_xticks([0.1, 0.12, 0.9, 5.0, 5.01], ["one", "two", "three", "four", "five"])
    axes.set_xlim(0, 1)
    axes.figure.draw_without_rendering()
    assert overlapping_texts(axes.figure) == [("one", "two")]
