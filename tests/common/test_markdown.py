"""Tables of summaries: digits by size, gaps where a row lacks a metric."""

import pytest

from graft_common.markdown import cell, table


@pytest.mark.parametrize(
    ("mean", "low", "high", "said"),
    [
        (0.12347, 0.1, 0.2, "0.1235 [0.1000, 0.2000]"),
        (-1.5, -2.0, 0.25, "-1.500 [-2.000, 0.250]"),
        (31.2, 30.0, 32.126, "31.20 [30.00, 32.13]"),
    ],
)
def test_digits_follow_the_size(mean, low, high, said):
    assert cell({"mean": mean, "ci95": [low, high], "n": 3}) == said


def test_a_metric_that_a_row_lacks_stays_empty():
    one = {"mean": 0.12347, "ci95": [0.1, 0.2], "n": 3}
    text = table({"a": {"dice": one}, "b": {"iou": one | {"mean": 12.345}}, "c": {}}, "answer")
    assert text == (
        "| answer | dice | iou |\n|---|---|---|\n| a | 0.1235 [0.1000, 0.2000] |  |\n| b |  | 12.35 [0.10, 0.20] |\n"
        "| c |  |  |\n"
    )
