"""Prompt templates run in a sandbox and never see the answer."""

import pytest

from copd.errors import BadRow, RecipeError
from copd.rows.template import columns_in, compile_template

WHERE = "branches.a.task.prompt_template"


def rendered(source, prompt="1+1?", **row):
    return compile_template(source, WHERE)(prompt, row)


def test_a_template_sees_the_text_and_the_columns_of_the_row():
    assert rendered("{{ prompt }}\nOf {{ options | join(', ') }}.", options=["A", "B"]) == "1+1?\nOf A, B."
    assert rendered("{{ content }}{{ problem }}", prompt="x") == "xx"
    assert rendered("{% if level is defined %}{{ level }}{% else %}none{% endif %}") == "none"


def test_the_columns_that_a_template_reads_are_known():
    source = "{% for x in options %}{{ x }}{% endfor %}{{ prompt }}{% if level is defined %}{{ level }}{% endif %}"
    assert columns_in(source) == {"options", "prompt", "level"}


@pytest.mark.parametrize("column", ["answer", "solution", "reward_model", "extra_info"])
def test_a_template_never_sees_the_answer(column):
    with pytest.raises(BadRow, match=f"'{column}' is undefined"):
        rendered("{{ prompt }} {{ " + column + " }}", **{column: "2"})


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ prompt.__init__.__globals__ }}",
        "{{ self.__init__.__globals__ }}",
        "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
        "{{ '{0.__class__}'.format(prompt) ~ (prompt | attr('__class__')).x }}",
        "{{ options.append(1) }}",
    ],
)
def test_a_template_that_reaches_beyond_its_variables_is_refused(source):
    with pytest.raises((RecipeError, BadRow)) as refusal:
        rendered(source, options=[])
    assert "unsafe" in str(refusal.value) or "undefined" in str(refusal.value)


def test_a_refused_template_is_the_recipes_fault_not_the_rows():
    with pytest.raises(RecipeError, match=f"^{WHERE}: reaches beyond the variables"):
        rendered("{{ prompt.__class__.__mro__ }}")


def test_what_stands_in_a_row_is_text_and_is_never_rendered():
    assert rendered("{{ prompt }}{{ note }}", prompt="{{ 7 * 7 }}", note="{% include 'x' %}") == (
        "{{ 7 * 7 }}{% include 'x' %}"
    )


@pytest.mark.parametrize(("source", "said"), [("{{ prompt", "not a Jinja template"), ("{% bogus %}", "unknown tag")])
def test_a_template_that_does_not_compile_is_refused_by_its_field(source, said):
    with pytest.raises(RecipeError, match=f"^{WHERE}: .*{said}"):
        rendered(source)


def test_what_a_row_makes_a_template_say_is_one_printable_line():
    with pytest.raises(BadRow) as refusal:
        rendered("{{ note.missing }} {{ note | int / level }} {{ note[level] }}", note="\x1b[2J\n", level="\x1b[1m\n")
    assert str(refusal.value).isprintable()


def test_no_other_file_can_be_included():
    with pytest.raises(BadRow, match="no loader for this environment"):
        rendered("{% include '/etc/passwd' %}")
