"""Foreign text is inert wherever it stands, shows what it is, and is judged here by a Markdown parser of its own."""

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from bakeoff.report.escape import clip, markdown, plain, workflow, workflow_property

PARSER = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
PLACES = {
    "paragraph": "{}",
    "item": "- {}",
    "heading": "# {}",
    "cell": "| a | b |\n| --- | --- |\n| {} | x |",
    "after a word": "word {} word",
    "caption": "![{}](plots/rouge.png)",
}
NASTY = [
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "a|b||c", "`code` ``two``", "[a](http://evil.example)",
    "![i](http://evil.example/i.png)", "<http://evil.example>", "[ref]: http://evil.example", "*a* **b** _c_",
    "__d__ ~~e~~",
    "# heading", "a\n# heading\n\n- item", "- item", "+ item", "1. one", "1) one", "> quote", "---", "===", "    code",
    "\tcode",
    "```\nfence", "~~~", "&lt;script&gt;", "&#35;", "\\", "end\\", "end\\|", "\x1b[31mred\x1b[0m", "a\x00b",
    "a\u202egnp.exe",
    "\u200fmark", "line\u2028line", "\ud800", "\u200bzero", "| --- |", "$x$", "x\r\ny", "  outer  ", "",
    "{{ template }}",
    "<!-- comment", "</td></table>", "-->", "[^1]", "2021.acl-long.481", "名前", "فارسی می\u200cخواهم",
]  # fmt: skip
foreign = st.text(
    st.sampled_from("ab1 \n\t|`*_[](){}<>!#-+.~=^&;:/\\@$\"'\x1b\u202e\u2028é名") | st.characters(), max_size=40
)


def inline(text, place):
    """The inline tokens of `text` at a place (in a table: below both headings), and the kinds of all tokens around."""
    tokens = PARSER.parse(PLACES[place].format(text))
    found = [token.children or [] for token in tokens if token.type == "inline"]
    children = found[2 if place == "cell" else 0] if found else []
    return children[0].children or [] if place == "caption" else children, [t.type for t in tokens]


def is_inert(text, place):
    children, around = inline(markdown(text), place)
    _, around_neutral = inline("neutral", place)
    assert around == around_neutral or not plain(text).strip()
    assert {child.type for child in children} <= {"text", "html_inline"}
    assert {child.content for child in children if child.type == "html_inline"} <= {"<span>", "</span>"}
    seen = "".join(child.content for child in children if child.type == "text")
    words = ("word ", " word") if place == "after a word" else ("", "")
    if plain(text).strip():
        assert seen == words[0] + plain(text).strip() + words[1]


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("text", NASTY, ids=ascii)
def test_nasty_text_is_plain_text_to_a_markdown_parser(text, place):
    is_inert(text, place)


@given(text=foreign, place=st.sampled_from(list(PLACES)))
@example(text="a_b_\n_c", place="cell")
def test_any_text_is_plain_text_to_a_markdown_parser(text, place):
    is_inert(text, place)


@given(foreign)
def test_html_has_no_element_but_the_empty_span(text):
    assert not re.search(r"<(?!/?span>)", markdown(text))
    assert "|" not in markdown(text)


@given(foreign)
def test_text_stays_on_one_line_of_characters_that_can_be_seen_and_written(text):
    shown = plain(text)
    assert shown.isprintable() or not re.search(r"[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ufeff]", shown)
    assert len(markdown(text).splitlines()) <= 1
    markdown(text).encode("utf-8")


@pytest.mark.parametrize(
    "text, shown",
    [
        ("\x1b[31m", "\\x1b[31m"),
        ("a\nb", "a\\nb"),
        ("\u202e", "\\u202e"),
        ("\ud800", "\\ud800"),
        ("\U000e0041", "\\U000e0041"),
    ],
    ids=ascii,
)
def test_what_can_not_be_seen_is_shown_as_an_escape(text, shown):
    assert plain(text) == shown


@pytest.mark.parametrize(
    "text", ["::error::x", "  ::error file=a::x", "\t::error::x", ":::error::x", "##[error]x", "###[group]"]
)
def test_no_command_for_a_ci_host_survives(text):
    for shown in (plain(text), markdown(text)):
        assert not shown.lstrip().startswith("::")
        assert "##[" not in shown


@pytest.mark.parametrize(
    "text", ["@user", "a@b.example", "http://e.example", "www.e.example", "#12", "GH-12", ":+1:", "$x$", "mailto:a"]
)
def test_what_hosts_link_after_markdown_is_cut_by_an_element(text):
    pieces = re.split(r"</?span>", markdown(text))
    assert len(pieces) > 2
    assert not any(re.search(r"@\w|://|www\.|#\d|GH-\d|:\+1:|\$.|mailto:", piece) for piece in pieces)


@pytest.mark.parametrize(
    "text", ["last-layer", "lora_r16", "2021.acl-long.481", "Hello, it's 3.5 (see C).", "02:03:04+00:00", "名前"]
)
def test_names_and_prose_stay_as_they_are(text):
    assert markdown(text) == text


COMMAND = re.compile(r"::(?P<name>[a-z-]+)(?: (?P<properties>[^:]*))?::(?P<message>.*)", re.DOTALL)


def runner(line):
    """How a GitHub runner reads a line: a command's name, its properties and its message."""
    found = COMMAND.fullmatch(line.lstrip())
    pairs = [pair.split("=", 1) for pair in (found["properties"] or "").split(",") if pair]
    turned = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}

    def back(text, codes):
        return re.sub("|".join(codes), lambda match: turned[match[0]], text)

    values = {name: back(value, turned) for name, value in pairs}
    return found["name"], values, back(found["message"], ["%0D", "%0A", "%25"])


@given(title=foreign, message=foreign)
@example(title="a,line=1::stop-commands::x", message="\n::error::100%0A::set-output name=x::y")
def test_a_workflow_command_stays_one_command_with_its_own_properties(title, message):
    line = f"::error title={workflow_property(title)},line=3::{workflow(message)}"
    assert len(line.splitlines()) == 1
    assert runner(line) == ("error", {"title": plain(title), "line": "3"}, plain(message))


def test_clip_says_how_long_the_text_was():
    assert clip("abc", 3) == "abc"
    assert clip("abcd" * 1000, 3) == "abc … (4,000 characters)"
