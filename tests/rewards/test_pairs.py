"""What is equal under `math`, kind by kind: pairs beside those of docs/rewards.md."""

import pytest

from copd.rewards.grading import _plan_math
from copd.rewards.verifiers import Verdict


def right(answer: str, reference: str) -> bool:
    """The verdict of `math`, without a grading process."""
    plan = _plan_math(answer, reference)
    return (plan if isinstance(plan, Verdict) else plan[0](*plan[1:])).correct


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("mgR", "mgr", False),
        (r"\Delta", r"\delta", False),
        ("F=GMm/r^2", "F=GMm/R^2", False),
    ],
)
def test_capital_letters_are_other_symbols(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("3 MPa", "3 mPa", False),
        ("5 MW", "5 mW", False),
        ("5 Mg", "5 mg", False),
        ("5 T", "5 t", False),
        (r"5 M\Omega", r"5 m\Omega", False),
        ("3 KM", "3 km", True),
        (r"5 \mu m", "5 μm", True),
        ("5 Ω", "5 ohms", True),
    ],
)
def test_the_case_of_a_unit_counts_where_two_units_differ_by_it(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        (r"3\sqrt{2}", r"3\sqrt{2}\,\text{cm}", True),
        ("(2,3)", r"(2,\,3)", True),
        ("[0,1)", r"[0,\;1)\quad", True),
        (r"2\pi", r"2\,\pi", True),
        ("1,2", r"1,\,2", True),
        ("5", r"5\,", True),
        ("5", "5\\ ", True),
        (r"5+2\sqrt{6}", r"5~+ 2\sqrt{6}", True),
        ("x=2,3", r"x=2 \quad\text{or}\quad x=3", True),
        ("(2,3)", r"2\,3\,1", False),
        (r"\begin{cases}x+y&x>0\\ 2&x\le0\end{cases}", r"\begin{cases}x+y&x>0\\2&x\le0\end{cases}", True),
    ],
)
def test_white_space_of_latex_separates_nothing(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize("unit", ["square units", "units", "cubic units", "sq. units", "cm^2"])
def test_a_multiple_of_pi_may_have_any_unit_in_a_font(unit):
    assert right(rf"18\pi \text{{ {unit}}}", r"18\pi")
    assert not right(rf"18\pi \text{{ {unit}}}", r"17\pi")


@pytest.mark.parametrize(
    ("inequality", "set_of_it", "verdict"),
    [
        ("-3<x<3", r"x\in(-3,3)", True),
        (r"x\le 3", r"x\in(-\infty,3]", True),
        (r"x<2\text{ or }x>5", r"x\in(-\infty,2)\cup(5,\infty)", True),
        ("-3<x<3", r"x\in(-3,3]", False),
        ("x<3", r"x\in(-\infty,3]", False),
        ("-3<y<3", r"x\in(-3,3)", False),
    ],
)
def test_an_inequality_is_the_set_in_which_its_letter_is(inequality, set_of_it, verdict):
    assert right(inequality, set_of_it) is verdict
    assert right(set_of_it, inequality) is verdict


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1-\sqrt{5}, 1+\sqrt{5}\}", True),
        (r"\{1\pm\sqrt{5},-2\}", r"\{-2, 1-\sqrt{5}\}", False),
        (r"1\pm\sqrt{5},-2", r"-2, 1-\sqrt{5}, 1+\sqrt{5}", True),
    ],
)
def test_plus_or_minus_is_two_members_of_a_list_and_of_a_set(reference, answer, verdict):
    assert right(answer, reference) is verdict


@pytest.mark.parametrize(
    ("answer", "reference"),
    [
        (r"\boldsymbol{12}", "12"),
        (r"\bm{12}", "12"),
        (r"\underline{12}", "12"),
        (r"\varnothing", r"\emptyset"),
        (r"$\$2.00$", r"\$2.00"),
    ],
)
def test_fonts_signs_and_dollar_signs_that_mean_the_same(answer, reference):
    assert right(answer, reference)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("x=1,500", "x=1, 500", False),
        ("(1,000, 2,000)", "(1000, 2000)", True),
        (r"\sqrt{1,000}", r"10\sqrt{10}", True),
        ("(100,200)", "(100, 200)", True),
        (r"10\,000\pi", r"10000\pi", True),
    ],
)
def test_a_comma_before_three_digits_groups_and_one_before_a_space_lists(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("B D A C", "A B C D", False),
        ("(B)(A)", "(A)(B)", False),
        ("3 4", "3, 4", True),
        ("BDAC", "B D A C", True),
    ],
)
def test_numbers_and_letters_apart_by_spaces_keep_their_order(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("ABC'", "ABC", False),
        ("ab'", "ab", False),
        ("5'", '5"', False),
        ("5''", "5'", False),
        ("\"5'", "5", False),
        (r"\text{ABC}'", "ABC", False),
        ("'yes'", "yes", True),
        ('"New York"', "New York", True),
        ("“no”", "no", True),
        ("‘no’", "no", True),
        ("``no''", "no", True),
        ("'Don't'", "don't", True),
        ('"a", "b"', "b, a", True),
        ("`x`", "x", True),
    ],
)
def test_one_mark_alone_is_a_prime_and_only_a_pair_quotes(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("xy!", "xy", False),
        ("ABC!", "ABC", False),
        ("AB*", "AB", False),
        ("!AB", "AB", False),
        ("!yes", "yes", False),
        ("~yes", "yes", False),
        ("CO2*", "CO2", False),
        ("yes!", "yes", True),
        ("no?", "no", True),
        ("*yes*", "yes", True),
        ("never!", "never.", True),
    ],
)
def test_signs_around_letters_are_operators_and_behind_words_punctuation(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("B^TA^T", "A^TB^T", False),
        ("A^T", "A", False),
        ("y'", "y", False),
        ("f'(x)=6x", r"f'(x) = 2 \cdot 3x", True),
    ],
)
def test_primes_and_transposes_are_part_of_a_name(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("5", r"\neq 5", False),
        ("> 5", "5", False),
        ("x<2 or x>5", "x<2 and x>5", False),
        ("(1,3)", "1<x<3", True),
        (r"x \ge 2", r"[2,\infty)", True),
    ],
)
def test_a_sign_of_a_relation_is_part_of_the_answer(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("16", "15=16", False),
        ("5", "x=4=5", False),
        ("f(x)=2x", "2x", True),
        ("16", "16=x", True),
    ],
)
def test_an_equation_is_worth_its_value_only_if_it_gives_one(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("a=2,b=3", "x=3,y=2", False),
        ("1,2,2", "1,1,2", False),
        ("1,1,2", "1,2", False),
        (r"\{1,1,2\}", r"\{1,2\}", True),
        ("(1,2)", "(x,y)=(1,2)", True),
        ("5,6", "x=5 or 6", True),
        (r"\pm 2", "2, -2", True),
    ],
)
def test_assignments_go_by_name_and_each_value_counts_once(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("3 basis points", r"3\%", False),
        ("£5", "5 lbs", False),
        ("5 lbs", "5 pounds", True),
        (r"5\%", "5 percent", True),
    ],
)
def test_a_per_cent_sign_is_no_other_unit(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("5 dozens", "5", False),
        ("5 crores", "5", False),
        ("5 degrees below zero", "5", False),
        ("20 June", "20", False),
        ("5 dollars short", "5", False),
        ("5 quadrillion", r"5 \cdot 10^{15}", True),
        ("2 twelfths", "1/6", True),
        ("2 thirds", r"\frac{2}{3}", True),
    ],
)
def test_words_for_numbers_multiply_and_words_that_say_more_are_no_unit(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("3-5 days", "-2", False),
        ("2024-03", "2021", False),
        ("192.168.0.1", "10.0.0.1", False),
        ("0x1F", "0", False),
        ("101.1_2", "101.1_8", False),
        ("3:4", "6:8", False),
        ("3-5 days", "3–5", True),
        ("3:30 PM", r"3:30 \text{ p.m.}", True),
        ("02:30", "2:30", True),
        ("3:4", r"\frac{3}{4}", True),
        (r"1:\sqrt{3}", r"1 : \sqrt3", True),
    ],
)
def test_times_ranges_dates_and_codes_are_not_computed(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("5", "5kJ", True),
        ("5kJ", "5", True),
        ("5kJ", "5.0 kJ", True),
        ("5kJ", "5 J", False),
        ("5kJ", "5MJ", False),
        ("-2.5kPa", "-2.5", True),
        ("1e3kWh", "1000", True),
        ("18", "18dollars", True),
        ("90degrees", "90", True),
        ("12km/h", "12", True),
        ("3m/s", "3", True),
        ("10-20cm", "10-20", True),
        (r"2\sqrt{3}cm", r"2\sqrt{3}", True),
        ("5.0 m", "5m", True),
        ("5.0 Ω", "5Ω", True),
        (r"5\mu m", r"5.0 \mu m", True),
        ("5m", "5.0 km", False),
    ],
)
def test_a_unit_that_touches_its_number_is_one_like_a_unit_apart(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [
        *(("5k", "5"), ("5k", "5000"), ("3e5", "3"), ("2m", "2"), ("5x", "5"), ("3i", "3"), ("5N", "5"), ("2mg", "2")),
        *(("2nm", "2"), ("3kV", "3"), ("2mgs", "2"), ("2meV", "2"), ("2ha", "2"), ("3m^2", "3"), ("3g/m", "3")),
        *((r"3\mu N", "3"), (r"2\Omega", "2"), ("3mi", "3"), ("5mg/L", "5"), ("2KM", "2"), ("1-2x", "1-2")),
        *((r"2\pi ft", r"2\pi"), (r"2\pi hr", r"2\pi"), (r"2\pi mg", r"2\pi"), (r"\frac{g}{2} ha", r"\frac{g}{2}")),
    ],
)
def test_letters_that_touch_a_number_and_may_be_factors_are_no_unit(reference, answer):
    assert not right(answer, reference)
    assert not right(reference, answer)
    assert right(reference, reference)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("5 six", "5", False),
        ("5 times six", "5", False),
        ("5 grand", "5", False),
        ("5 permille", "5", False),
        ("5 actually wrong", "5", False),
        ("3 alpha", "3", False),
        ("2 sinx", "2", False),
        ("2 abc", "2", False),
        ("2 xyz", "2", False),
        ("5 times", "5", True),
        ("3 cats", "3", True),
        ("1 egg", "1", True),
        ("5 logs", "5", True),
        ("5 red balls", "5", True),
        ("5 years old", "5", True),
    ],
)
def test_a_word_behind_a_number_is_what_it_counts_unless_it_says_more_or_may_be_a_product(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("A1 B2", "A2 B1", False),
        ("12A", "A12", False),
        ("3D", "D3", False),
    ],
)
def test_phrases_with_numbers_are_no_products(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("my", "ym", False),
        (r"\angle ABC", r"\angle BAC", False),
        (r"\triangle ABC", r"\triangle ACB", False),
        ("ab", r"b \cdot a", True),
        ("mgh", "m g h", True),
    ],
)
def test_words_are_no_products(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        (r"\{(1,2),(3,4)\}", r"\{\{1,2\},\{3,4\}\}", False),
        ("(1,2)", "2,1", False),
        ("(1,2)", "1, 2", True),
    ],
)
def test_a_set_is_no_point(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("√x²", "x", False),
        ("√π", r"\sqrt{\pi}", True),
        ("√((1+2)·3)", "3", True),
        ("√{3}", r"\sqrt3", True),
        (r"√\frac{1}{4}", "0.5", True),
    ],
)
def test_a_typed_root_takes_what_stands_under_it(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        (r"\pi", r"\pi^\circ", False),
        (r"2\cos(60°)", "1", True),
        (r"90^\circ - x", "90-x", True),
    ],
)
def test_degrees_in_a_function_are_degrees(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("10⁵", "100000", True),
        ("3 × 10⁸", "3e8", True),
        ("x⁴", "x^4", True),
        ("⅓", "1/3", True),
        ("1024", "2^10", True),
        ("x^10", "x^{10}", True),
        ("2**10", "1024", True),
    ],
)
def test_typed_powers_and_fractions_are_read(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        (r"\sqrt{0.5x}", r"\sqrt{x/2}", True),
    ],
)
def test_decimals_in_powers_and_functions_are_fractions(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("3", "3.0000000000000001", False),
        ("1", "0.99999999999999999", False),
        ("3", "-(-3.0000000000000001)", False),
        ("3", "2+1.0000000000000001", False),
        (r"\sqrt{9}", "3.0000000000000001", False),
        ("3x", "3.0000000000000001x", False),
        ("x>3", "x>3.0000000000000001", False),
        ("x^2", "x^{2.0000000000000001}", False),
        ("3", "3." + "0" * 120 + "1", False),
        ("3", "2." + "9" * 120, False),
        ("3", "3." + "0" * 120, True),
        ("3", "1.1+2.2-0.3", True),
        ("7", r"0.07 \cdot 100", True),
        ("16", r"0.1 \cdot 160", True),
        (r"x^{\frac{1}{10}}", "x^{0.1}", True),
    ],
)
def test_all_digits_of_a_decimal_count_against_a_whole_number(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("-1", "i^2", True),
        ("5", "|3+4i|", True),
        ("2i", r"\sqrt{-4}", True),
        ("1-i, 1+i", "1+i, 1-i", True),
        ("i", "-i", False),
        ("1.5i", "1.50001i", False),
        ("1+2i", "1.0000005+2i", False),
        ("1000000+i", "1000000.0+2i", False),
        ("1+2i", "1.0+2.0i", True),
        (r"\frac{1+2i}{3}", "0.3333333+0.6666667i", True),
        ("-x", "xi^2", False),
        ("i^2", r"n \cdot i", False),
        (r"\frac{n(n+1)}{2}", r"\sum_{i=1}^{n} i", True),
    ],
)
def test_an_i_without_other_letters_is_the_imaginary_unit_and_else_may_be_an_index(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer"),
    [("1", "1-10^{-50}"), (r"1-10^{-50}", "1"), (r"\frac{10^{60}+1}{10^{60}}", "1"), ("10^{50}", "10^{50}+1")],
)
def test_fractions_that_differ_are_unequal_however_little(reference, answer):
    assert not right(answer, reference)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        (r"\{\begin{array}{l}x=1\\y=2\end{array}", "x=1,y=2", True),
    ],
)
def test_a_system_of_equations_is_a_list(reference, answer, verdict):
    assert right(answer, reference) is verdict
    assert right(answer, answer)


@pytest.mark.parametrize(
    ("reference", "answer", "verdict"),
    [
        ("1", "x=1.0000005", False),
        ("x=1", "1.0000005", False),
        (r"\frac{1}{2}mv^2", r"\frac{mv^2}{2}", True),
        ("mc^2", "E = m c^2", True),
        (r"\frac{3}{2} kT", r"\frac32", False),
        ("2mg", "2", False),
        (r"\left(100,200\right)", "(100, 200)", True),
        ("True, False", "False, True", False),
        (r"P^{-1}AP", "A", False),
        (r"v_{\text{max}}", "v_{max}", True),
        (r"\begin{pmatrix}1\\(2)\end{pmatrix}", r"\begin{pmatrix}1\\2\end{pmatrix}", True),
        ("1 \\pm \\sqrt{2}, 5", "5, 1-\\sqrt2, 1+\\sqrt2", True),
        ("0.1234...", "0.1234", False),
        ("x" + "+0" * 200, "x", True),
        ("x+" * 200 + "y=16", "16", False),
    ],
)
def test_other_pairs_that_are_easily_mistaken(reference, answer, verdict):
    assert right(answer, reference) is verdict
