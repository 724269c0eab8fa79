"""The page of a comparison says what the outcomes say, and no more."""

from dataclasses import replace

import pytest

from copd.arms.comparison import Comparison
from copd.arms.page import write_page


@pytest.fixture
def page(make_outcome, tmp_path, undrawn_here):
    def of(outcomes, **changes):
        arms = {o.arm: {} for o in outcomes}
        comparison = Comparison.model_validate({"rollouts": 1000, "arms": arms, **changes})
        return write_page(tmp_path, comparison, outcomes, {}).read_text()

    return of


@pytest.fixture
def outcomes(make_outcome):
    mixed = [make_outcome("mixed", seed, {"text": 0.4, "image": 0.5}) for seed in range(3)]
    gains = ((0.3, 0.2), (0.3, 0.25), (0.35, 0.2))
    one = [make_outcome("one", s, {"text": 0.4 + t, "image": 0.5 + i}) for s, (t, i) in enumerate(gains)]
    return [*mixed, *one]


def test_an_arm_that_is_ahead_in_every_seed_is_said_to_be_clearly_ahead(page, outcomes):
    said = page(outcomes)
    assert "one has the best average: 71.7 %." in said
    assert "Clearly ahead of mixed, by Holm&#39;s correction: one (+26.7 [" in said
    assert "2 arms, 3 seeds" in said


def test_experts_are_no_model_that_could_be_the_best_one(page, outcomes, make_outcome):
    right = {name: {"text": 0.9, "image": 0.9} for name in ("text", "image")}
    experts = [make_outcome("expert", seed, right, products=("text", "image")) for seed in range(3)]
    said = page([*outcomes, *experts])
    assert "one has the best average: 71.7 %." in said
    assert "expert, a model for each capability, has 90.0 %." in said
    assert "expert (+" not in said


def test_one_seed_claims_nothing(page, outcomes):
    said = page([o for o in outcomes if o.seed == 0])
    assert "One seed does not say how another would come out" in said
    assert "Clearly" not in said
    assert "inf" not in said.replace("information", "")


def test_arms_alike_are_not_told_apart(page, make_outcome):
    shares = ((0.4, 0.5), (0.5, 0.4), (0.45, 0.475))
    outcomes = [make_outcome(arm, s, {"text": pair[k]}) for s, pair in enumerate(shares) for k, arm in enumerate("ab")]
    said = page(outcomes)
    assert "No clear difference to a: b (+0.8 [" in said
    assert "Clearly" not in said


def test_arms_that_are_exactly_alike_are_both_the_best(page, make_outcome):
    outcomes = [make_outcome(arm, seed) for arm in ("a", "b", "c") for seed in range(2)]
    worse = [make_outcome("d", seed, {"text": 0.2, "image": 0.2}) for seed in range(2)]
    assert "a, b and c have the best average: 37.5 %." in page([*outcomes, *worse])


def test_an_arm_that_answered_other_problems_is_told(page, outcomes):
    said = "one answered other problems than mixed: means are no ranking"
    other = [replace(o, problems={**o.problems, "text": ("another", 40)}) if o.arm == "one" else o for o in outcomes]
    assert said not in page(outcomes)
    assert said in page(other)


def test_every_account_has_its_section_and_every_arm_its_command(page, outcomes, make_outcome):
    steps = [make_outcome(arm, seed, account="steps") for arm in ("mixed", "one") for seed in range(3)]
    said = page([*outcomes, *steps], accounts=["rollouts", "steps"])
    assert said.index("Equal rollouts") < said.index("Equal steps of a model")
    assert said.count("copd train demo seed=0 --out runs/one") == 1


def test_every_reference_has_its_table(page, outcomes):
    said = page(outcomes, references=["one", "mixed"])
    assert said.index("Points more than one") < said.index("Points more than mixed")


def test_curves_are_of_the_product_and_behaviour_of_pairs_of_branches(page, outcomes):
    said = page(outcomes)
    for title in ("validation accuracy", "overlap", "symmetric KL"):
        assert f'aria-label="rollouts: {title}"' in said
    assert "0.85" in said  # the mean of 0.9 and 0.8


def test_seeds_of_an_arm_that_were_made_of_different_things_are_told(page, outcomes, make_outcome):
    said = "Seeds of mixed were trained on different rows, models, code or versions: run them anew."
    assert said not in page([replace(o, made_of="a") for o in outcomes])
    assert said in page([replace(o, made_of="a" if o.seed or o.arm == "one" else "b") for o in outcomes])
    assert said not in page([replace(o, made_of="a" if o.seed else "") for o in outcomes]), "an older one does not tell"


def test_arms_of_different_seeds_are_not_ranked_and_a_single_seed_makes_no_difference_unclear(page, outcomes):
    said = page([o for o in outcomes if o.arm == "mixed" or o.seed == 0])
    assert "Not all arms have the same seeds, so that means are no ranking" in said
    assert "No clear difference" not in said


def test_a_regret_of_one_seed_is_told_with_its_interval_over_problems(page, outcomes, make_outcome):
    right = {name: {"text": 0.9, "image": 0.9} for name in ("text", "image")}
    said = page([*outcomes, make_outcome("expert", 1, right, products=("text", "image"))])
    table = said[said.index("own expert with the same seed") :].partition("</table>")[0]
    assert "of one seed, over problems" in table
    assert '<tr><th scope="row">one</th><td>1</td>' in table
    assert "inf" not in table


def test_a_difference_of_one_seed_has_no_p_value(page, outcomes):
    assert "<td>1.000</td>" not in page([o for o in outcomes if o.seed == 0])
