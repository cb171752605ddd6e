"""The nets of Coates 2013 on paper."""

import pytest

from dlkit.papers import coates2013, measured


@pytest.mark.parametrize(("gpus", "giga"), [(1, 0.18), (64, 11.2)])
def test_our_nets_have_the_parameters_that_were_published(gpus, giga):
    side = coates2013.side_for(giga)
    first, second = (side - 17) ** 2, (side - 17 - 2 - 17) ** 2  # places of 18x18 filters, and of pools of 3x3
    by_hand = 34 * 18**2 * (3 * first + 34 * second)
    assert coates2013.parameters(side) == by_hand
    assert by_hand == pytest.approx(1e9 * giga, rel=0.01 if gpus == 64 else 0.05)


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    return {row.name: row for row in coates2013.measure(tmp_path_factory.mktemp("runs"), quick=True)}


def test_its_largest_net_fits_64_cards_and_no_single_one(rows):
    assert rows["parameters on 64 GPUs, G"].measured == "11.18"
    assert float(rows["a rank of 64: weights, MB"].measured) == pytest.approx(4 * 11_180 / 64, rel=0.06)
    assert "fits 4 GiB" in rows["a rank of 64: in all with 96 images, MB"].spread
    assert rows["the weights in float64, GiB"].spread == "81.96 GiB for 11 G parameters"
    assert 4 * coates2013.parameters(200) > 10 * coates2013.CARD


def test_the_table_that_comes_with_the_kit_is_this_one(rows):
    kept = measured("coates2013")
    assert len(kept) == 12
    for name, row in rows.items():
        assert kept[name] == float(row.measured)
