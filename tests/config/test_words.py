"""Words of a command line: what is suggested can be pasted and means exactly what was typed."""

import re
import shlex

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from experiments.config import words
from experiments.config.compose import compose

TEXT = st.text(st.characters(exclude_categories=["Cc", "Cs", "Zl", "Zp"]), max_size=12)
PARTS = st.sampled_from(
    ["\\", '"', "'", "${", "}", "$", "a", " ", "=", "ü", ",", "~", "#", "(", "[", "\u00a0"]
)
PATH = TEXT | st.lists(PARTS, max_size=8).map("".join)


def read(argument: str) -> str:
    """Return the value that a configuration has after ``key=value``."""
    override = OverridesParser.create().parse_override(argument)
    return OmegaConf.create({"value": override.value()}).value


def refusal(typed: list[str], *, multirun: bool = False) -> str:
    """Return the line that refuses these words; empty where they are taken."""
    try:
        words.check(typed, multirun=multirun)
    except ValueError as error:
        return str(error)
    return ""


@settings(max_examples=60)
@given(PATH)
def test_any_text_comes_back_from_its_quoted_form_through_shell_hydra_and_omegaconf(text: str):
    (argument,) = shlex.split(words.pasted(f"data.root={words.quoted(text)}"))
    assert read(argument) == text


@settings(max_examples=60)
@given(PATH)
def test_a_word_is_taken_as_it_is_or_refused_with_a_form_that_gives_its_text(text: str):
    argument, message = f"data.root={text}", refusal([f"data.root={text}"])
    if message:
        assert message.startswith("data.root=")
        (argument,) = shlex.split(re.search(r"write (.*?)( if it is one text)?$", message)[1])
        assert read(argument) == text
    assert refusal([argument]) == ""


@pytest.mark.parametrize(
    ("typed", "reason"),
    [
        ("data.root=Bilder für uns", "has 'ü', which must stand in quotes"),
        ("data.root=图片", "has '图', which must stand in quotes"),
        ("data.root=(", "has '(', which must stand in quotes"),
        ("data.root=~/pictures", "has '~', which must stand in quotes"),
        ("data.root=a#b", "has '#', which must stand in quotes"),
        ("data.root=it's", "which must stand in quotes"),
        ("model.weights=/x/epoch=3.ckpt", "has '=', which must stand in quotes"),
        ("data.root=Pictures(1)", "has '(', which must stand in quotes"),
        ("data.root=a,b", "has several values: add -m"),
        ("data.root=1.10", "is read as the number 1.1"),
        ("data.root=true", "is read as true or false"),
        ("model.weights=2024", "is read as the number 2024"),
    ],
)
def test_the_argument_is_named_with_its_reason_and_the_form_to_paste(typed: str, reason: str):
    message = refusal([typed])
    key, _, text = typed.partition("=")
    assert reason in message
    assert typed in message
    assert shlex.quote(f'{key}="{text}"') in message


@pytest.mark.parametrize(
    ("typed", "form"),
    [
        (["lr", "0.1"], "lr=0.1"),
        (["model", "resnet18"], "model=resnet18"),
        (["optimizer.lr:0.1"], "optimizer.lr=0.1"),
        (["model"], "as in model=..."),
        (["seed=1", "aug", "cut out"], "'aug=cut out'"),
    ],
)
def test_a_word_without_an_equals_sign_is_named_with_one(typed: list[str], form: str):
    with pytest.raises(ValueError, match=re.escape(form)):
        compose(typed)


@pytest.mark.parametrize("typed", ["Bilder ä,Bilder b", '"Bilder a",Bilder ö', "Bilder ä, 'Bilder b'"])
def test_of_a_sweep_s_list_each_value_is_quoted_once(typed: str):
    message = refusal([f"data.root={typed}"], multirun=True)
    (argument,) = shlex.split(message.partition("write ")[2])
    values = OverridesParser.create().parse_override(argument).sweep_iterator()
    assert [getattr(value, "text", value) for value in values] == [
        part.strip("\"' ") for part in typed.split(",")
    ]


def test_a_list_with_a_torn_quote_is_quoted_as_one_text():
    assert refusal(['data.root="ä,b'], multirun=True).endswith("""write 'data.root="\\"ä,b"'""")


@pytest.mark.parametrize("word", ["data.root=a\udcff", "data.root=a\x07ü", "data.root=a\u2028b"])
def test_what_no_terminal_shows_is_refused_without_a_form(word: str):
    with pytest.raises(ValueError, match=r"^'data\.root=a\\") as error:
        words.check([word])
    assert "write" not in str(error.value)


def test_an_interpolation_stays_one_in_quotes():
    assert words.quoted("${oc.env:HOME}/ü") == '"${oc.env:HOME}/ü"'
    assert words.quoted("${data.source}/ü") == '"${data.source}/ü"'
    assert words.quoted("a${b}") == '"a\\${b}"'


@pytest.mark.parametrize("typed", ["optimizer=[1]", "model=null", "aug=3", "tracking=false"])
def test_a_group_takes_the_name_of_an_option(typed: str):
    group, _, came = typed.partition("=")
    law = rf"{group} must be an option of conf/{group}, got {re.escape(came)}; there is: \w+"
    assert re.match(law, refusal([typed]))
    assert refusal([f"{group}={{lr: 0.1}}"]) == ""
