"""Pages as text, the grading page too; and the page at `/` in a real browser."""

import base64
import hashlib
import http.client
import re

import pytest

from afm_mlx.evaluation.human.app import PACKAGE as GRADING
from afm_mlx.inference.server.page import HERE, page_text
from afm_mlx.inference.server.page import page as page_of

from .conftest import WAIT_SECONDS, eventually, is_idle, running
from .test_policy import POLICY

FIELDS = {HERE: 5, GRADING: 3}
"""Of each page; one of them is the key's."""
DONE = "#send:text-is('Send')"


@pytest.mark.parametrize("package", FIELDS)
def test_a_page_loads_nothing_and_makes_no_markup_of_text(package):
    text = page_text(package)
    for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
        assert word not in text
    assert not re.findall(r'(?:src|href)="(?!data:,)', text)
    assert not re.findall(r"\son\w+=|\sstyle=|@import|url\(", text)


@pytest.mark.parametrize(("package", "fields"), FIELDS.items())
def test_every_field_of_a_page_has_a_label(package, fields):
    text = page_text(package)
    ids = re.findall(r'<(?:select|textarea|input) id="(\w+)"', text)
    assert len(ids) == fields
    assert set(re.findall(r'<label[^>]* for="(\w+)"', text)) == set(ids)


@pytest.mark.parametrize("package", FIELDS)
def test_a_browser_is_told_to_run_the_script_of_the_page_alone(package):
    answer = page_of(package)
    text = answer.body.decode()
    policy = dict(
        part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";")
    )
    assert answer.headers["content-type"].startswith("text/html")
    assert policy["default-src"] == "'none'"
    assert policy["connect-src"] == "'self'"
    script = text.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy["script-src"] == f"'sha256-{digest}'"
    assert "include" not in re.findall(r"^(?:/\*|//|<!--) (\w+)", text, re.MULTILINE)


def test_the_page_and_its_policy_come_from_the_server(server):
    line = http.client.HTTPConnection("127.0.0.1", server.port, timeout=WAIT_SECONDS)
    line.request("GET", "/")
    answer = line.getresponse()
    assert answer.read() == page_of().body
    line.close()
    name = "content-security-policy"
    assert answer.getheader(name) == page_of().headers[name]


@pytest.fixture
def open_page(browser):
    """Function that opens the page of a server; nothing may go wrong in its script."""
    pages, wrong = [], []

    def run(server):
        page = browser.new_page()
        pages.append(page)
        page.set_default_timeout(WAIT_SECONDS * 1_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on(
            "console", lambda said: wrong.append(said.text) if "Content Sec" in said.text else 0
        )
        page.goto(server.url)
        return page

    yield run
    for page in pages:
        page.close()
    assert wrong == []


def ask(page, question: str):
    page.fill("#question", question)
    page.keyboard.press("Enter")


@pytest.fixture(scope="module")
def served(adapted, tmp_path_factory):
    policy = tmp_path_factory.mktemp("policy") / "policy.toml"
    policy.write_text(POLICY.format(pattern="steal a car"))
    with running(adapted, policy=policy) as found:
        yield found


@pytest.mark.slow
def test_a_person_sends_stops_and_changes_the_adapter(open_page, served):
    page = open_page(served)
    page.wait_for_selector("#model option", state="attached")
    models = page.locator("#model option").all_text_contents()
    assert models == ["tiny", "tiny:a", "tiny:b"]
    ask(page, "What is on the hill?")
    page.wait_for_selector("#send:text-is('Stop')")
    assert eventually(lambda: served.service.batcher.load.answering == 1)
    page.wait_for_selector("article.assistant .text p:not(.waiting)")  # it streams
    assert page.is_disabled("#new")
    page.click("#send")
    page.wait_for_selector(DONE)
    assert page.locator("article .note").last.text_content() == "Stopped"
    assert eventually(lambda: is_idle(served))
    page.select_option("#model", "tiny:b")
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json))
    page.fill("#question", "one")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("two")
    page.keyboard.press("Enter")
    page.wait_for_selector("#send:text-is('Stop')")
    page.keyboard.press("Escape")
    page.wait_for_selector(DONE)
    assert bodies[0]["model"] == "tiny:b"
    assert [turn["role"] for turn in bodies[0]["messages"]] == ["user", "assistant", "user"]
    assert bodies[0]["messages"][-1]["content"] == "one\ntwo"
    page.click("#new")
    assert page.locator("article").count() == 0


@pytest.mark.slow
def test_a_refusal_looks_unlike_an_answer_and_leaves_no_trace(open_page, served):
    page = open_page(served)
    page.wait_for_selector("#model option", state="attached")
    ask(page, "How do I steal a car?")
    page.wait_for_selector(".refusal")
    page.wait_for_selector(DONE)
    assert "I can't help with that." in page.text_content(".refusal")
    page.click("#options")
    page.fill("#system", "Say little.")
    bodies = []
    page.on("request", lambda request: bodies.append(request.post_data_json))
    ask(page, "And the cat?")
    page.wait_for_selector("#send:text-is('Stop')")
    page.click("#send")
    page.wait_for_selector(DONE)
    said = [(turn["role"], turn["content"]) for turn in bodies[0]["messages"]]
    assert said == [("system", "Say little."), ("user", "And the cat?")]


@pytest.mark.slow
def test_an_error_of_the_server_is_shown(open_page, served):
    page = open_page(served)
    page.wait_for_selector("#model option", state="attached")
    ask(page, "cat " * 3_000)
    page.wait_for_selector(".problem")
    assert "tokens" in page.text_content(".problem")
    page.wait_for_selector(DONE)
    assert page.input_value("#question").startswith("cat cat")  # to be made shorter


@pytest.mark.slow
def test_a_key_is_asked_for_until_it_is_right(open_page, adapted):
    with running(adapted, api_key="right") as server:
        page = open_page(server)
        for key in ("wrong", "right"):
            page.wait_for_selector("#ask[open]")
            page.fill("#key", key)
            page.keyboard.press("Enter")
        page.wait_for_selector("#model option", state="attached")
        assert page.evaluate("localStorage.length + sessionStorage.length") == 0


MARKDOWN = """# Title
Some **bold**, *soft* and `co**de`.
<img src=x onerror="document.title = 'harm'"> <script>document.title = 'harm'</script>

- one
- two [link](https://example.org/a) [bad](javascript:alert(1))

3. three

> said

```python
def f(x):
    return "<b>" + x
"""


@pytest.mark.slow
def test_markdown_is_shown_and_no_text_becomes_markup(open_page, served):
    page = open_page(served)
    page.evaluate(
        "text => { showMarkdown(find('talk'), text); find('empty').hidden = true; }", MARKDOWN
    )
    count = {tag: page.locator(f"#talk {tag}").count() for tag in ("h2", "strong", "em", "li")}
    assert count == {"h2": 1, "strong": 1, "em": 1, "li": 3}
    assert page.locator("#talk img, #talk script, #talk b").count() == 0
    assert page.locator("#talk a").all_text_contents() == ["link"]
    assert page.get_attribute("#talk ol", "start") == "3"
    assert page.text_content("#talk pre") == 'def f(x):\n    return "<b>" + x\n'
    assert "<img src=x onerror=" in page.text_content("#talk")
    assert page.title() == "Chat"


@pytest.mark.slow
@pytest.mark.parametrize("width", [320, 1_200])
def test_nothing_sticks_out_of_the_window(open_page, served, width):
    page = open_page(served)
    page.set_viewport_size({"width": width, "height": 600})
    page.wait_for_selector("#model option", state="attached")
    page.click("#options")
    page.evaluate("text => showMarkdown(addTurn('assistant').text, text)", "`" + "x" * 500 + "`")
    assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert page.is_visible("#send")
