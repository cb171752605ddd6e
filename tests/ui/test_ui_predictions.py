"""Predictions: kept in a file, judged when the result is shown, and summed up. The card itself: tests/browser."""

import json

import pytest
import torch

from dlkit.ui import Predictions


@pytest.fixture
def predict(tmp_path):
    """With a choice and a number asked."""
    return asked(tmp_path)


def asked(folder, notebook="08_data"):
    predict = Predictions(notebook, folder)
    predict.choice("halves", "Is it the same?", "for both", "for one", "for neither")
    predict.number("bytes", "How many bytes?", unit="bytes", within=0.1)
    return predict


def restarted(folder):
    """The kernel is restarted, and the cells with questions are run again."""
    return asked(folder)


def file(folder):
    return folder / "08_data.predictions.json"


def test_nothing_is_written_until_a_prediction_is_made(predict, tmp_path):
    assert str(predict.was("halves", "for one")) == "No prediction was kept. It was “for one”."
    assert str(predict.was("bytes", torch.tensor(420_000))) == "No prediction was kept. It was 420,000 bytes."
    assert "nothing to sum up" in str(predict.tally())
    assert list(tmp_path.iterdir()) == []


def test_a_prediction_is_kept_and_judged(predict, tmp_path):
    card = predict.cards["halves"]
    card.commit("for one", 80)
    assert card.status == "Kept: you say “for one”, 80 % sure. You can change it until the result is shown."
    assert json.loads(file(tmp_path).read_text())["halves"]["said"] == "for one"
    assert str(predict.was("halves", "for one")) == "You said “for one”, 80 % sure. It was “for one”: right."
    assert card.locked
    assert card.status == str(predict.was("halves", "for one"))
    card.commit("for both", 50)
    assert card.said == "for one"


def test_it_can_be_changed_until_the_result_is_shown(predict):
    predict.cards["halves"].commit("for one", 80)
    predict.cards["halves"].commit("for both", 60)
    assert str(predict.was("halves", "for one")).endswith("It was “for one”: not as you thought.")


@pytest.mark.parametrize("typed", ["420000", "420,000", "4.2e5", " 400 000 ", "461999"])
def test_a_number_is_right_if_it_is_near(predict, typed):
    predict.cards["bytes"].commit(typed, 70)
    assert str(predict.was("bytes", 420_000)).endswith("It was 420,000 bytes: right.")


@pytest.mark.parametrize("typed", ["377000", "463000", "-420000", "0"])
def test_a_number_that_is_far_is_not(predict, typed):
    predict.cards["bytes"].commit(typed, 70)
    assert str(predict.was("bytes", 420_000)).endswith("not as you thought.")


def test_what_is_no_number_is_not_kept(predict, tmp_path):
    predict.cards["bytes"].commit("many", 70)
    assert predict.cards["bytes"].status == "'many' is no number: write it as 1200, 1,200 or 1.2e3."
    assert not file(tmp_path).exists()


def test_after_a_restart_the_prediction_is_there(predict, tmp_path):
    predict.cards["halves"].commit("for one", 80)
    again = restarted(tmp_path)
    assert (again.cards["halves"].said, again.cards["halves"].sure) == ("for one", 80)
    assert not again.cards["halves"].locked
    again.was("halves", "for both")
    once_more = restarted(tmp_path)
    assert once_more.cards["halves"].locked
    assert once_more.cards["halves"].status.endswith("It was “for both”: not as you thought.")
    assert str(once_more.was("halves", "for both")) == once_more.cards["halves"].status


def test_a_prediction_after_the_result_is_told_it_and_not_counted(predict, tmp_path):
    predict.was("halves", "for one")
    predict.cards["halves"].commit("for one", 99)
    assert "had been shown before, so this one does not count" in predict.cards["halves"].status
    assert "nothing to sum up" in str(predict.tally())
    again = restarted(tmp_path)  # seen is seen
    again.cards["halves"].commit("for both", 99)
    again.was("halves", "for one")
    assert "nothing to sum up" in str(again.tally())


def test_a_question_that_has_changed_since_is_asked_anew(predict, tmp_path):
    predict.cards["halves"].commit("for one", 80)
    other = Predictions("08_data", tmp_path)
    assert other.choice("halves", "Is it another?", "for both", "for one").said == ""


def test_the_outcome_must_be_one_of_the_choices(predict):
    with pytest.raises(ValueError, match="'perhaps' is none of the choices of 'halves': 'for both', 'for one'"):
        predict.was("halves", "perhaps")
    with pytest.raises(KeyError, match="nothing was asked by the name of 'other'"):
        predict.was("other", 1)
    for choices in ((), ("one",), ("one", "one")):
        with pytest.raises(ValueError, match="two or more different answers"):
            predict.choice("x", "?", *choices)


def keep(folder, notebook, right, wrong, sure):
    predict = Predictions(notebook, folder)
    for i in range(right + wrong):
        predict.choice(f"{i}", f"Question {i}?", "yes", "no").commit("yes", sure)
        predict.was(f"{i}", "yes" if i < right else "no")
    return predict


@pytest.mark.parametrize(
    ("right", "sure", "verdict"),
    [(9, 90, "about as sure as you could be"), (5, 90, "surer than you could be"), (9, 60, "could have been surer")],
)
def test_the_tally_holds_sureness_against_the_share_of_right_ones(tmp_path, right, sure, verdict):
    tally = str(keep(tmp_path, "one", right, 10 - right, sure).tally())
    assert tally.startswith(
        f"You predicted 10 of 10 results. Right: {right} of 10 ({right * 10} %); on average you were {sure} %"
    )
    assert verdict in tally


def test_the_tally_adds_up_the_notebooks_of_the_folder(tmp_path):
    keep(tmp_path, "one", 3, 1, 90)
    tally = str(keep(tmp_path, "two", 1, 3, 60).tally())
    assert (
        "You predicted 4 of 4 results. Right: 1 of 4 (25 %); on average you were 60 % sure: so few say little" in tally
    )
    assert "In all notebooks here you made 8 predictions. Right: 4 of 8 (50 %); on average you were 75 % sure" in tally
    assert tally.splitlines()[-2:] == [
        "60 to 79 %              4      1          25%",
        "80 % or more            4      3          75%",
    ]


def test_a_damaged_file_is_put_aside(tmp_path):
    file(tmp_path).write_text('{"halves": 3}')
    with pytest.warns(UserWarning, match="08_data.predictions.json does not hold predictions: it is kept as"):
        asked(tmp_path).cards["halves"].commit("for one", 80)
    assert (tmp_path / "08_data.predictions.damaged").read_text() == '{"halves": 3}'
    assert restarted(tmp_path).cards["halves"].said == "for one"


def test_where_nothing_can_be_written_it_is_said(tmp_path):
    (tmp_path / "folder").write_text("a file, where the folder should be")
    predict = asked(tmp_path / "folder")
    predict.cards["halves"].commit("for one", 80)
    assert predict.cards["halves"].status.endswith("(Until the kernel ends: this folder cannot be written.)")
    assert str(predict.was("halves", "for one")).endswith("right.")


def test_forgetting_asks_anew(predict, tmp_path):
    predict.cards["halves"].commit("for one", 80)
    predict.forget()
    assert not file(tmp_path).exists()
    assert restarted(tmp_path).cards["halves"].said == ""


def test_how_sure_starts_from_guessing(predict):
    assert predict.cards["halves"].levels == [33, 50, 60, 70, 80, 90, 99]
    assert predict.choice("two", "?", "yes", "no").levels == [50, 60, 70, 80, 90, 99]
    assert predict.cards["bytes"].levels == [10, 30, 50, 60, 70, 80, 90, 99]


def test_the_text_that_stands_in_for_the_card_asks_too(predict):
    assert repr(predict.cards["halves"]) == "Prediction: Is it the same? [for both / for one / for neither]"
    assert repr(predict.cards["bytes"]) == "Prediction: How many bytes? [a number of bytes]"
