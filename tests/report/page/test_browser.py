"""The page in Chromium: it draws, sorts, filters, opens documents, asks for nothing, and lets no text become a page."""

import json
import re
import shutil
from urllib.parse import quote

import pytest
from factories import run, settings

from bakeoff.metrics.rouge import Prediction
from bakeoff.report import results_json
from bakeoff.report.comparison import compare
from bakeoff.report.escape import lines
from bakeoff.report.page import details, library, over_time, read, write
from bakeoff.report.page.result import shown
from bakeoff.shipped import ROOT

pytestmark = pytest.mark.slow

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
)
HOSTILE = (
    "</script><script>globalThis.hacked = 1</script><img src=x onerror=alert(1)>[x](javascript:alert(1)) "
    "\u202eback& &amp; \x07"
)
NAMES = {"lora": 0.40, "full": 0.41, "soft-prompt": 0.25, "__proto__": 0.2, HOSTILE: 0.12}
DOCUMENTS = 30
KEPT = [path for name in ("quick", "zoo") if (path := ROOT / "docs" / "reports" / name / "results.json").is_file()]
"""Reports that are kept in the repository."""


def made():
    """Five methods with three seeds, two of them alike, a control, and documents of which one is hostile."""
    ids = [f"paper-{n}" for n in range(DOCUMENTS - 1)] + [HOSTILE]
    results = {
        name: [
            run(name, mean, seed=seed, documents=DOCUMENTS, document_ids=ids, trained=1000 * place)
            for seed in (1, 2, 3)
        ]
        for place, (name, mean) in enumerate(NAMES.items(), 1)
    }
    results["lead-1"] = [run("lead-1", 0.3, control=True, documents=DOCUMENTS, document_ids=ids)]
    reference = "The model beats earlier work on speech."
    written = {
        name: [
            Prediction(
                one, f"About {one}.", reference, f"{name}: the MODEL\u2028beats nothing on {one}.", aspect="outcome"
            )
            for one in ids
        ]
        for name in results
    }
    return compare(settings(seeds=(1, 2, 3)), results), written


@pytest.fixture(scope="module")
def comparison():
    """What the page shows."""
    return made()[0]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Folders with a page of one bake-off (its texts inside, and beside it), and of two."""
    folder = tmp_path_factory.mktemp("pages")
    compared, written = made()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "vega", library.vega)  # other tests do without it
        write.write_report(compared, written, folder / "one", None, folder)
        patch.setattr(write, "LIMIT", 1000)
        write.write_report(compared, written, folder / "beside", None, folder)
        patch.setattr(write, "LIMIT", 10**7)
        (folder / "alone").mkdir()
        shutil.copy(folder / "beside" / "index.html", folder / "alone")
        for name, drop in (("old", 0.0), ("new", 0.1)):
            values = results_json.content(compared)
            for metric in ("rouge1", "rouge2", "rougeL"):
                rows = values["methods"]["lora"]["scores"][metric]
                values["methods"]["lora"]["scores"][metric] = [[max(0, score - drop) for score in row] for row in rows]
            (folder / f"{name}.json").write_text(json.dumps(values))
        for kept in KEPT:
            [result] = read.results([kept])
            write.write([result.shown], folder / f"{kept.parent.name}.html", folder)
        content = json.loads((folder / "new.json").read_text())
        others = {f"method-{number}": content["methods"]["lora"] for number in range(9)}
        changed = {**content, "methods": {**others, "lora": content["methods"]["lora"]}, "pairs": []}
        changed["settings"]["training"]["epochs"] = 7
        (folder / "other.json").write_text(json.dumps(changed))
        found = read.results([folder / "other.json", folder / "new.json"])
        write.write([one.shown for one in found], folder / "others.html", folder, over_time.compared(found))
        found = read.results([folder / "old.json", folder / "new.json"])
        write.write([one.shown for one in found], folder / "two.html", folder, over_time.compared(found))
    return folder


@pytest.fixture(scope="module")
def browser():
    """One Chromium for all tests."""
    from playwright.sync_api import sync_playwright

    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail("no Chromium found; type apt-get install chromium", pytrace=False)
    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=path, args=list(ARGUMENTS))
        yield opened
        opened.close()


@pytest.fixture
def visit(browser, files):
    """Opens a page: `page = visit("one/index.html")`. Fails at the end for complaints, requests and dialogs."""
    contexts, wrong = [], []

    def open_page(name, hash="", **options):
        context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(10_000)
        page.on("console", lambda message: wrong.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: wrong.append(f"error: {error}"))
        page.on("dialog", lambda dialog: (wrong.append(f"dialog: {dialog.message}"), dialog.dismiss()))
        page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
        page.goto(f"{(files / name).as_uri()}{hash}")
        page.wait_for_selector("#score-plot svg")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def column(page, table, place):
    """The texts of a table's column, from above."""
    return [text.strip() for text in page.locator(f"{table} tbody tr > :nth-child({place})").all_inner_texts()]


def beside(page, title):
    """By method under a title beside the scores, what stands behind its name."""
    return dict(page.locator("#apart dt", has_text=title).evaluate(
        "(title) => { const found = []; for (let one = title.nextElementSibling; one && one.tagName === 'DD';"
        " one = one.nextElementSibling) found.push([...one.children].map((part) => part.textContent)); return found; }"
    ))  # fmt: skip


def test_the_first_screen_says_what_cannot_be_told_apart(visit, comparison):
    page = visit("one/index.html")
    together = next(group for group in comparison.alike("rougeL") if "full" in group)
    assert set(together) == {"full", "lora"}
    assert page.locator("#headline").inner_text().startswith("full has the highest mean ROUGE-L")
    assert "lora cannot be told from it" in page.locator("#headline").inner_text()
    assert page.locator("#headline").bounding_box()["y"] < 450
    assert set(beside(page, "cannot be told from full")) == {"lora"}
    page.locator("#apart-choice select").select_option("soft-prompt")
    above = beside(page, "above soft-prompt")
    pairs = [
        pair for pair in comparison.pairs if pair.metric == "rougeL" and "soft-prompt" in (pair.first, pair.second)
    ]
    assert set(above) == {pair.higher for pair in pairs} - {"soft-prompt", ""} == {"full", "lora"}
    for pair in (one for one in pairs if one.higher in above):
        sign, other = (1, pair.first) if pair.second == "soft-prompt" else (-1, pair.second)
        difference, low, high = (
            100 * sign * one for one in (pair.contrast.difference, pair.contrast.low, pair.contrast.high)
        )
        numbers = [float(number) for number in re.findall(r"[-+]?[\d.]+", above[other])]
        assert numbers == pytest.approx([difference, min(low, high), max(low, high)], abs=0.006), other
        assert above[other].startswith("+" if difference > 0 else "-")


def test_the_key_says_what_an_interval_covers_and_that_overlap_decides_nothing(visit):
    key = visit("one/index.html").locator("#score-key").inner_text()
    assert "cover other documents and other seeds" in key and "two apart whose intervals overlap" in key
    assert "one seed" not in key
    kept = visit(f"{KEPT[0].parent.name}.html")
    assert "trained with one seed" in kept.locator("#score-key").inner_text()
    kept.locator("#metric-choice select").select_option(label="chrF++")
    kept.locator("#score-key", has_text="cover other documents.").wait_for()


def test_tables_sort_by_their_columns_with_controls_below(visit, comparison):
    page = visit("one/index.html")
    head = page.locator("#score-table th", has_text="ROUGE-1")
    order = sorted(comparison.methods, key=lambda row: row.rouge["rouge1"].mean)
    for direction, rows in (("descending", order[::-1]), ("ascending", order)):
        head.locator("button").click()
        assert head.get_attribute("aria-sort") == direction
        assert column(page, "#score-table", 1) == [*(lines(row.name) for row in rows), "lead-1"]


def test_documents_are_sorted_searched_and_filtered(visit, comparison):
    page = visit("one/index.html")
    rows = {row.name: row for row in comparison.rows}
    first, second = (rows[name].scores["rougeL"][0] for name in ("full", "lora"))
    apart = sorted(range(DOCUMENTS), key=lambda place: -abs(first[place] - second[place]))
    shown_ids = page.locator("#list a .id").all_inner_texts()
    assert shown_ids == [lines(comparison.document_ids[place]) for place in apart]
    page.locator("#from").fill("40")
    assert page.locator("#list a").count() == sum(score >= 0.4 for score in first)
    page.locator("#from").fill("")
    page.locator("#search").fill("NOTHING on paper-7.")
    assert page.locator("#list a .id").all_inner_texts() == ["paper-7"]
    assert page.locator("#document h3").inner_text() == "paper-7"
    assert page.locator("#document .chosen").first.locator("mark").all_inner_texts() == ["the", "MODEL", "beats", "on"]


def test_a_link_opens_its_document_and_keys_move_on(visit):
    page = visit("one/index.html", f"#document=paper-5&a=soft-prompt&b={quote(HOSTILE)}&metric=rouge2")
    assert page.locator("#document h3").inner_text() == "paper-5"
    assert page.locator("#document .chosen h4 span[dir]").first.inner_text() == "soft-prompt"
    ids = page.locator("#list a .id").all_inner_texts()
    place = ids.index("paper-5")
    step = 1 if place + 1 < len(ids) else -1
    page.keyboard.press("j" if step > 0 else "k")
    assert page.locator("#document h3").inner_text() == ids[place + step]
    assert "metric=rouge2" in page.url and "document=" in page.url
    page.keyboard.press("/")
    page.keyboard.type("paper-11")
    assert page.locator("#list a .id").all_inner_texts() == ["paper-11"]
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    assert page.locator("#help").is_visible()


def test_hostile_text_stays_text(visit):
    for name in ("one/index.html", "two.html"):
        page = visit(name)
        assert page.evaluate("globalThis.hacked") is None
        assert page.locator("img, iframe, a[href^='javascript']").count() == 0
        assert page.locator("script").count() == 3
        assert lines(HOSTILE) in column(page, "#score-table", 1)
        assert "\u202e" not in page.locator("body").inner_text()
    page = visit("one/index.html", f"#document={quote(lines(HOSTILE))}")
    assert page.locator("#document h3").text_content() == lines(HOSTILE)


@pytest.mark.parametrize("name", [path.parent.name for path in KEPT])
def test_a_kept_report_says_which_methods_are_alike_on_its_first_screen(visit, name):
    [path] = [path for path in KEPT if path.parent.name == name]
    methods = json.loads(path.read_text(encoding="utf-8"))["methods"]
    page = visit(f"{name}.html")
    means = {row: figures["rouge"]["rougeL"]["mean"] for row, figures in methods.items()}
    assert (
        page.locator("#headline").inner_text().startswith(f"{max(means, key=means.get)} has the highest mean ROUGE-L")
    )
    assert set(column(page, "#score-table", 1)) >= set(methods)
    assert page.locator("#apart dt").first.bounding_box()["y"] < 900
    if path.with_name(details.NAME).is_file():
        assert page.locator("#list a").count() == len(json.loads(path.read_text(encoding="utf-8"))["document_ids"])
        assert page.locator("#document mark").count() > 3
    assert len(methods) > 8 or page.locator("#score-table tbody tr").first.bounding_box()["y"] < 900


def test_texts_beside_the_page_are_read_from_disk(visit):
    page = visit("beside/index.html")
    assert page.locator("#list a").count() == DOCUMENTS


def test_a_page_that_lost_its_texts_says_so_and_shows_the_rest(browser, files):
    context, wrong = browser.new_context(), []
    page = context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto((files / "alone" / "index.html").as_uri())
    page.wait_for_selector("#cost-plot svg")
    assert "index.texts.js is not beside this page" in page.locator("#browser").inner_text()
    assert page.locator("#figures table tbody tr").count() and page.locator("#sections li").count() > 4
    context.close()
    assert wrong == []


def test_a_click_on_a_document_keeps_its_place_in_the_list(visit):
    page = visit("one/index.html")
    last = page.locator("#list a").last
    last.scroll_into_view_if_needed()
    pane = page.locator(".pane", has=page.locator("#list"))
    before = pane.evaluate("pane => pane.scrollTop")
    assert before > 0
    last.click()
    assert last.get_attribute("aria-current") == "true"
    assert pane.evaluate("pane => pane.scrollTop") == before


def test_a_choice_keeps_the_focus_when_it_is_drawn_again(visit):
    page = visit("one/index.html")
    page.locator("#metric-choice input").first.focus()
    for expected in ("rouge2", "rougeL"):
        page.keyboard.press("ArrowRight")
        assert page.evaluate("document.activeElement.value") == expected
    page.locator("#apart-choice select").select_option(index=1)
    page.locator("#apart-choice select").focus()
    page.keyboard.press("ArrowDown")
    assert page.evaluate("document.activeElement.closest('#apart-choice') !== null")


def test_two_results_stand_side_by_side_with_their_verdicts(visit):
    page = visit("two.html")
    page.wait_for_selector("#time-plot svg")
    assert page.locator("#time-table thead").inner_text().split() == ["method", "▲", "old", "new"]
    lora = page.locator("#time-gate tr", has_text="lora").filter(has_text="ROUGE-L")
    assert "regressed" in lora.inner_text()
    page.locator("#result-choice select").select_option("0")
    assert "no setting and no version changed" in page.locator("#time-changes").inner_text()


def test_methods_of_another_result_have_colours_and_marks_of_their_own(visit):
    page = visit("others.html")
    page.locator("#time-choice .boxes input").evaluate_all(
        "(boxes) => boxes.forEach((one) => one.checked || one.click())"
    )
    page.wait_for_function("document.querySelector('#time-plot').textContent.includes('method-8')")
    look = (
        "[...document.querySelectorAll('#time-plot svg .role-legend-symbol path')].map("
        "(one) => [one.getAttribute('fill'), one.getAttribute('d')])"
    )
    styles = [tuple(one) for one in page.evaluate(look)]
    assert all(re.fullmatch("#[0-9a-f]{6}", fill) for fill, _ in styles)
    assert len(set(styles)) == len(styles) > 10
    changes = page.locator("#time-changes details")
    assert "training.epochs 7 -> " in changes.text_content() and changes.get_attribute("open") is None  # many: folded


def test_a_link_opens_the_result_that_it_was_made_in(visit):
    page = visit("beside/index.html")
    assert "result=" not in page.locator("#document a", has_text="Link").get_attribute("href")
    page = visit("two.html", "#result=old&document=none")
    assert page.locator("#result-choice select").input_value() == "0"


def test_costs_curves_and_figures_are_chosen_and_redrawn(visit, comparison):
    page = visit("one/index.html")
    page.wait_for_selector("#cost-plot svg")
    words = lambda plot: page.locator(f"#{plot} svg").first.text_content()  # noqa: E731
    page.locator("#cost-choice select").nth(0).select_option(label="trainable parameters")
    page.wait_for_function("document.querySelector('#cost-plot').textContent.includes('trainable parameters')")
    page.locator("#cost-choice select").nth(1).select_option("rouge1")
    page.wait_for_function("document.querySelector('#cost-plot').textContent.includes('ROUGE-1')")
    assert "ROUGE-1" in words("score-plot") or page.wait_for_function(
        "document.querySelector('#score-plot').textContent.includes('ROUGE-1')"
    )
    page.locator("#figure-choice select").select_option(index=1)
    label = page.locator("#figure-choice option").nth(1).inner_text()
    page.wait_for_function("(label) => document.querySelector('#figure-plot').textContent.includes(label)", arg=label)
    page.locator("#curve-choice label", has_text="step").click()
    page.wait_for_function("document.querySelector('#curve-plot').textContent.includes('step')")


def test_keys_of_one_letter_act_among_the_documents_alone(visit):
    page = visit("one/index.html")
    before = page.locator("#document h3").inner_text()
    page.locator("#score-table th button").first.focus()
    page.keyboard.press("j")
    page.keyboard.press("?")
    assert page.locator("#document h3").inner_text() == before and not page.locator("#help").is_visible()
    page.locator("#list").focus()
    page.keyboard.press("j")
    assert page.locator("#document h3").inner_text() != before


GRAPHICS = """() => {
  const channel = (one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  const probe = document.body.appendChild(document.createElement("i"));
  const parts = (name) => {
    probe.style.color = `var(--${name})`;
    return getComputedStyle(probe).color.match(/[\\d.]+/g).map(Number);
  };
  const light = (tone) => tone.reduce((sum, one, at) => sum + [0.2126, 0.7152, 0.0722][at] * channel(one / 255), 0);
  const surface = parts("surface");
  const ratio = (name, opacity) => {
    const seen = parts(name).map((one, place) => opacity * one + (1 - opacity) * surface[place]);
    const [a, b] = [light(seen), light(surface)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05);
  };
  const drawn = [["square", 1], ["accent", 1], ["muted", 0.8], ...[1, 2, 3, 4, 5, 6].map((n) => [`series-${n}`, 0.75])];
  return drawn.filter(([name, opacity]) => !(ratio(name, opacity) >= 3)).map(([name]) => name); // WCAG 2.2, 1.4.11
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_what_is_drawn_has_the_contrast_of_graphics(visit, scheme):
    assert visit("one/index.html", color_scheme=scheme).evaluate(GRAPHICS) == []


CONTRAST = """() => {
  const channel = (one) => (one <= 0.03928 ? one / 12.92 : ((one + 0.055) / 1.055) ** 2.4);
  const light = (text) => {
    const [red, green, blue] = text.match(/[\\d.]+/g).map((one) => channel(one / 255));
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const behind = (one) => {
    const found = getComputedStyle(one).backgroundColor;
    return /, 0\\)|transparent/.test(found) && one.parentElement ? behind(one.parentElement) : found;
  };
  const poor = (text, back) => {
    const [a, b] = [light(text), light(back)].sort((x, y) => y - x);
    return (a + 0.05) / (b + 0.05) < 4.5; // WCAG 2.2, 1.4.3
  };
  const said = (one) => [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  const seen = [...document.querySelectorAll("body *")].filter((one) => one.getClientRects().length && said(one));
  const texts = seen.filter((one) => !one.closest("svg, noscript"));
  const labels = seen.filter((one) => one.closest("svg") && getComputedStyle(one).fill !== "none");
  if (texts.length < 50 || labels.length < 10) throw new Error("nothing to look at");
  const pale = texts.filter((one) => poor(getComputedStyle(one).color, behind(one)));
  pale.push(...labels.filter((one) => poor(getComputedStyle(one).fill, behind(document.body))));
  return pale.map((one) => one.outerHTML.slice(0, 90));
}"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(visit, scheme):
    page = visit("two.html" if scheme == "light" else "one/index.html", color_scheme=scheme)
    assert page.evaluate(CONTRAST) == []


def test_a_phone_scrolls_down_alone_and_every_control_has_a_name(visit):
    page = visit("one/index.html", viewport={"width": 360, "height": 740}, is_mobile=True)
    page.wait_for_selector("#curve-plot svg")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    nameless = (
        "[...document.querySelectorAll('select, input')].filter((one) => !one.closest('label')?.innerText).length"
    )
    assert page.evaluate(nameless) == 0
    assert page.evaluate("[...document.querySelectorAll('table')].filter((one) => !one.caption).length") == 0


def test_a_hundred_documents_of_thirty_methods_stay_below_5_megabytes(tmp_path):
    words = " ".join(f"word{n}" for n in range(30))
    ids = [f"paper-{n}" for n in range(100)]
    results = {f"method-{n}": [run(f"method-{n}", 0.2 + n / 200, documents=100)] for n in range(30)}
    written = {name: [Prediction(one, 8 * words, words, words) for one in ids] for name in results}
    compared = compare(settings(), results)
    page = shown(results_json.content(compared), details.content(compared, written))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "vega", library.vega)  # other tests do without it
        assert write.write([page], tmp_path / "index.html").stat().st_size < 5_000_000
    assert [path.name for path in tmp_path.iterdir()] == ["index.html"]
