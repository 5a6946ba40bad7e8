import base64
import hashlib
import json
import math
import re
from pathlib import Path

import pytest
from jinja2 import UndefinedError
from markupsafe import Markup

from cifar_core.report.markup import Cell, address, flatten, percent, render, script_json, shown, text

PAGE = """{% extends "base.html" %}
{% import "parts.html" as parts %}
{% block nav %}{{ parts.nav([("t", "Table")]) }}{% endblock %}
{% block main %}
{% call parts.section(name, id="t", hint=name) %}
<p title="{{ name }}">{{ name }}</p>
{{ parts.tiles([(name, name, name)]) }}
{{ parts.table([name, "acc"], rows, sortable=true, id="runs", ids=[name, "b"], numbers=true) }}
{% endcall %}
{% endblock %}
"""
EVIL = "\"><script>alert(1)</script>' onclick='x\u202e\udcff\n{{7*7}}"


def page(folder: Path, template: str = PAGE, **fields: object) -> str:
    (folder / "page.html").write_text(template, encoding="utf-8")
    (folder / "own.js").write_text("document.title = '<&';\n", encoding="utf-8")
    return render(folder / "page.html", **{"title": "A page", "lead": "It is tiny."} | fields)


def test_a_page_has_the_shell_the_parts_and_only_its_own_scripts(tmp_path: Path):
    rows = [["a", Cell("1 %", 0.01)], ["b", Cell("-", None)]]
    source = page(tmp_path, name="runs", rows=rows, scripts=["own.js", "page.js"], data={"a": "<"}, reload=30)
    assert source.startswith('<!doctype html>\n<html lang="en" data-reload="30">')
    assert '<tr data-id="b"><th scope="row">b</th><td class="number" data-sort="">-</td></tr>' in source
    assert '<td class="number" data-sort="0.01">1 %</td>' in source
    *scripts, _ = source.split("</script>")
    bodies = [script.partition("<script>")[2] for script in scripts[1:]]
    assert bodies[0] == "document.title = '<&';\n"
    digests = [base64.b64encode(hashlib.sha256(body.encode()).digest()).decode() for body in bodies]
    policy = re.search(r'Content-Security-Policy" content="(.*?)"', source)[1]
    assert policy.startswith("default-src 'none'")
    assert policy.endswith(f"script-src 'sha256-{digests[0]}' 'sha256-{digests[1]}'")
    assert (
        re.search(r'<script type="application/json" id="data">(.*?)</script>', source)[1] == r'{"a":"\u003c"}'
    )


def test_a_page_without_scripts_and_data_allows_and_has_none(tmp_path: Path):
    source = page(tmp_path, name="runs", rows=[])
    assert "script-src 'none'" in source
    assert "<script" not in source
    assert "data-reload" not in source


def test_a_text_from_outside_is_harmless_in_texts_and_attributes(tmp_path: Path):
    source = page(tmp_path, title=EVIL, lead=EVIL, name=EVIL, rows=[[EVIL, Cell(EVIL, EVIL)]], data=[EVIL])
    assert source.count("<script") == 1
    assert not re.search(r"<[^>]* onclick=", re.sub(r'"[^"]*"', '""', source))
    assert not {"\u202e", "\udcff"} & set(source)
    assert source.count(str(text(EVIL))) == 15
    assert json.loads(re.search(r'id="data">(.*?)</script>', source)[1]) == [EVIL]


def test_what_is_markup_already_stays_and_what_is_not_there_is_an_error(tmp_path: Path):
    assert text(Markup("<b>")) == Markup("<b>") == text(text(Markup("<b>")))
    assert '<td class="number"><i>x</i></td>' in page(tmp_path, name="n", rows=[["a", Markup("<i>x</i>")]])
    with pytest.raises(UndefinedError, match="'name' is undefined"):
        page(tmp_path, rows=[])


def test_the_address_of_a_folder_leads_there_whatever_its_name():
    assert address(Path("a b/lr=0.1#?%")) == "a%20b/lr%3D0.1%23%3F%25"
    assert address("javascript:x") == "javascript%3Ax"
    assert address("\udcff") == "%FF"


def test_a_share_as_a_person_writes_it():
    assert percent(0.78849) == "78.8\u00a0%"
    assert percent(0.78849, 2) == "78.85\u00a0%"
    assert percent(0.78849, 2, space=" ") == "78.85 %"
    assert percent(1, 0) == "100\u00a0%"


def test_an_unknown_share_is_a_dash():
    assert percent(None) == percent(math.nan) == percent(math.nan, space=" ") == "-"


@pytest.mark.parametrize("evil", ["</script>", "<!--", "\u2028", "\u2029", "&amp;", "]]>", "\udcff"])
def test_json_cannot_leave_its_script_element(evil: str):
    inside = script_json({evil: [evil]})
    assert json.loads(inside) == {evil: [evil]}
    assert inside.isascii()
    assert not set(inside) & set("<>&")


def test_texts_are_escaped_and_made_printable():
    assert text("<a href=\"x\" title='y'>&") == "&lt;a href=&#34;x&#34; title=&#39;y&#39;&gt;&amp;"
    assert shown("a\nb\u202ec\u2028\udcff\x00") == "a\\nb\\u202ec\\u2028\\udcff\\x00"
    assert shown("Käfer 猫 5\u00a0%") == "Käfer 猫 5\u00a0%"
    assert flatten({"a": {"b": 1, "c": {}}, "d": [1]}) == [("a.b", 1), ("d", [1])]
