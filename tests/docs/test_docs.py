"""What the documents say of the code: every entry of the equations is there, every link leads somewhere."""

import ast
import pathlib
import re

import pytest

ROOT = pathlib.Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
ENTRIES = re.findall(r"`([\w/]+\.py):([\w.]+)`", (ROOT / "docs" / "equations.md").read_text())


def definitions(path):
    """Names of the functions and classes of a file, `Class.method` too."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{one.name}" for one in node.body if isinstance(one, ast.FunctionDef)}
    return found


def test_there_are_equations():
    assert len(ENTRIES) > 20


@pytest.mark.parametrize(("file", "name"), ENTRIES)
def test_an_equation_is_where_it_is_said_to_be(file, name):
    assert name in definitions(ROOT / file)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    targets = re.findall(r"\]\((?!http)([^)#]+)[^)]*\)", page.read_text())
    missing = [target for target in targets if not (page.parent / target).exists()]
    assert not missing


def test_the_readme_is_a_page_to_read():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "results").glob("*.md")), ids=lambda page: page.stem)
def test_results_say_how_they_were_made(page):
    head = page.read_text().split("\n\n")[1]
    for name in ("command", "commit", "date", "hardware", "seeds"):
        assert f"- {name}: " in head
