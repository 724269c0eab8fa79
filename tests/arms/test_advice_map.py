"""The map of `copd advise`: near points decide, intervals hold seeds and points, and what turns the choice is told."""

import json
import math

import pytest

from copd.arms.advice_map import FEATURES, MAP, AdviceMap, Point, coordinates_of, read_map
from copd.errors import RecipeError
from copd.measure.evaluate import Estimate
from copd.measure.pilot import Pilot


def pilot(harm=0.0, gap=0.0, cosine=0.5) -> Pilot:
    def estimate(value):
        return Estimate(value, value - 0.01, value + 0.01)

    return Pilot(20, 0.4, estimate(0.1), estimate(harm), estimate(gap), cosine, 0.9, 0.01, 0.2)


def point(name, harm, leads, *, rollouts=1000, cosine=0.5) -> Point:
    return Point(name, rollouts, (pilot(harm, cosine=cosine),), leads)


KNOWN = AdviceMap(
    (
        point("peace", 0.0, {"distil": (-0.02, -0.03, -0.01)}),
        point("quarrel", 0.1, {"distil": (0.01, 0.02, 0.03)}),
        point("war", 0.2, {"distil": (0.07, 0.08, 0.09)}),
    ),
    {"distil": {"method": "copd", "merge.method": "distil"}},
)


def test_at_a_point_of_the_map_that_point_weighs_most_and_weights_sum_to_one():
    for number, each in enumerate(KNOWN.points):
        weights = KNOWN.weights(each.place)
        assert max(weights) == weights[number]
        assert math.fsum(weights) == pytest.approx(1)


def test_the_lead_is_the_mean_of_the_points_by_a_normal_kernel():
    place = KNOWN.points[0].place
    spread = math.sqrt((0.1**2 + 0.1**2) / 3)
    kernel = [math.exp(-((harm / spread) ** 2) / 2) for harm in (0.0, 0.1, 0.2)]
    expected = sum(w * lead for w, lead in zip(kernel, (-0.02, 0.02, 0.08), strict=True)) / sum(kernel)
    assert KNOWN.lead("distil", place).value == pytest.approx(expected)


def test_the_interval_holds_the_spread_between_points_and_between_seeds():
    alike = AdviceMap(
        (point("a", 0.0, {"distil": (0.01, 0.03)}), point("b", 0.1, {"distil": (0.01, 0.03)})), {"distil": {}}
    )
    lead = alike.lead("distil", alike.points[0].place)
    w = alike.weights(alike.points[0].place)
    error = 0.01  # of the mean of 0.01 and 0.03
    assert lead.high - lead.value == pytest.approx(1.96 * error * math.sqrt(w[0] ** 2 + w[1] ** 2), rel=1e-3)
    wide = KNOWN.lead("distil", KNOWN.points[1].place)
    assert wide.high - wide.value > 1.96 * 0.02


def test_the_greatest_expected_lead_is_favoured_and_mixed_where_none_is_above_it():
    assert KNOWN.favoured(KNOWN.points[0].place) == "mixed"
    assert KNOWN.favoured(KNOWN.points[2].place) == "distil"


def test_a_method_that_a_point_lacks_is_not_offered():
    partly = AdviceMap(
        (*KNOWN.points, point("new", 0.3, {"distil": (0.1,), "cycles": (0.5,)})), {"distil": {}, "cycles": {}}
    )
    assert partly.methods == ("mixed", "distil")


def test_a_cosine_that_noise_hides_is_left_out_of_the_distance():
    other = AdviceMap((point("a", 0.0, {"distil": (0.0,)}, cosine=-1.0), *KNOWN.points), {"distil": {}})
    hidden = coordinates_of(pilot(0.0, cosine=None), 1000)
    assert other.distance(hidden, other.points[0].place) == 0
    assert other.distance(coordinates_of(pilot(0.0, cosine=0.5), 1000), other.points[0].place) > 0


def test_a_feature_in_which_the_points_do_not_differ_has_no_say():
    place = coordinates_of(pilot(0.1), 1000)
    more = coordinates_of(pilot(0.1), 10_000_000)
    assert KNOWN.distance(place, more) == 0


def test_what_would_turn_the_choice_is_told_by_the_nearest_value():
    (turn,) = KNOWN.turns(KNOWN.points[0].place)
    assert turn.startswith("distil with harm to other capabilities of ")
    assert turn.endswith("points instead of 0.0 points")
    at = float(turn.removeprefix("distil with harm to other capabilities of ").split()[0]) / 100
    assert KNOWN.favoured(coordinates_of(pilot(at), 1000)) == "distil"
    assert KNOWN.favoured(coordinates_of(pilot(at - 0.2 / 60), 1000)) == "mixed"


def test_no_turn_is_told_where_one_method_leads_everywhere():
    alike = AdviceMap((point("a", 0.0, {"distil": (0.02,)}), point("b", 0.1, {"distil": (0.03,)})), {"distil": {}})
    assert alike.turns(alike.points[0].place) == []
    assert alike.elsewhere(alike.points[0].place) is None


def test_the_nearest_point_with_another_choice_is_told_with_its_features():
    found = KNOWN.elsewhere(KNOWN.points[2].place)
    assert found == (
        "mixed in peace (harm to other capabilities 0.0 points, gap between branches and their mean 0.0 points, "
        "cosine of gradients 0.50, rollouts in all 1,000)"
    )


def test_the_map_that_ships_can_be_read_and_its_points_lie_somewhere():
    for each in read_map().points:
        assert len(each.place) == len(FEATURES)
        assert each.pilots


def test_a_map_comes_back_from_its_file(tmp_path):
    path = tmp_path / "map.json"
    record = {
        "overrides": KNOWN.overrides,
        "points": [
            {
                "name": p.name,
                "rollouts": p.rollouts,
                "pilots": [one.as_record() for one in p.pilots],
                "leads": p.leads,
            }
            for p in KNOWN.points
        ],
    }
    path.write_text(json.dumps(record))
    assert read_map(path) == KNOWN


@pytest.mark.parametrize("text", ["", "[]", '{"points": [{}]}', '{"points": [], "overrides": '])
def test_what_is_no_map_is_refused_by_its_name(text, tmp_path):
    path = tmp_path / "map.json"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"map\.json: cannot be read as a map"):
        read_map(path)
    assert MAP.is_file()
