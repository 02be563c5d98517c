"""The documentation: its links, its commands, its figures, its reference, and the site that is built from it."""

import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from adabldm.app.cli import COMMANDS, HELP
from adabldm.app.command import Command, parse
from adabldm.core.settings import EvaluateSettings, FitSettings, GenerateSettings
from adabldm.core.settings.presets import edit_preset

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "adabldm"
DOCS = sorted((ROOT / "docs").rglob("*.md"))
LOGS = sorted((ROOT / "experiments").glob("*.md"))
CARD = PACKAGE / "models" / "shipped" / "README.md"
USER_PAGES = [ROOT / "README.md", *DOCS, CARD]
ALL_PAGES = [*USER_PAGES, *(ROOT / f"{name}.md" for name in ("ARCHITECTURE", "CONTRIBUTING", "CHANGELOG")), *LOGS]


def page_name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> Iterator[tuple[str, str]]:
    """(title, text) of the code blocks of one language; the title is empty where there is none."""
    fence = re.compile(rf'^([ ]*)```{language}(?: title="([^"]+)")?\n(.*?)^\1```$', re.M | re.S)
    for indent, title, text in fence.findall(page.read_text(encoding="utf-8")):
        yield title, re.sub(rf"^{indent}", "", text, flags=re.M)


def commands(page: Path) -> list[list[str]]:
    """The calls of adabldm in the shell blocks of a page, each as its words."""
    lines = [line for _, text in blocks(page, "sh") for line in text.replace("\\\n", " ").splitlines()]
    return [words[1:] for line in lines if (words := shlex.split(line, comments=True))[:1] == ["adabldm"]]


@pytest.mark.parametrize("page", ALL_PAGES, ids=page_name)
def test_links_lead_to_files(page: Path) -> None:
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    missing = [link for link in links if not link.startswith("http") and not (page.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("page", LOGS, ids=page_name)
def test_anchors_of_the_logs_exist(page: Path) -> None:
    for name, anchor in re.findall(r"\]\(([\w.-]*\.md)?#([\w-]+)\)", page.read_text(encoding="utf-8")):
        titles = re.findall(r"^#+ (.+)$", (page.parent / name if name else page).read_text(encoding="utf-8"), re.M)
        assert anchor in [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]


@pytest.mark.parametrize("page", [page for page in USER_PAGES if commands(page)], ids=page_name)
def test_the_command_line_understands_every_command(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Options, values and presets are those of the program; nothing is computed."""
    monkeypatch.chdir(tmp_path)
    for folder in ("parts", "masks"):
        Path(folder).mkdir()
    for language in ("toml", "yaml"):
        for title, text in blocks(page, language):
            Path(title).write_text(text, encoding="utf-8")
    if page.name == "config.md":
        assert Path("more.toml").exists()
    for words in commands(page):
        if words[:1] not in (["--help"], ["--install-completion"]):
            check_presets(parsed(words))


def parsed(words: list[str]) -> Any:
    """The settings that a command line gives; nothing is computed."""
    seen: list[Any] = []

    def recording(command: Command) -> Command:
        def record(settings: Any, surface: Any, listen: Any) -> None:
            seen.append(settings)

        record.__name__ = command.name
        return Command(command.settings, record, command.summary, surface=command.surface)

    parse(words, tuple(recording(command) for command in COMMANDS), HELP)
    assert len(seen) == 1, words
    return seen[0]


def test_the_command_of_the_compose_file_is_understood(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (service,) = yaml.safe_load((ROOT / "compose.yaml").read_text(encoding="utf-8"))["services"].values()
    settings = parsed(service["command"])
    assert settings.headless
    assert service["ports"] == [f"127.0.0.1:{settings.port}:{settings.port}"]


def check_presets(settings: Any) -> None:
    if isinstance(settings, GenerateSettings):
        settings.edit_preset()
    if isinstance(settings, FitSettings):
        settings.fit_preset()
    if isinstance(settings, EvaluateSettings):
        for condition in settings.condition:
            kind, _, preset = condition.partition(":")
            if kind == "adabldm":
                edit_preset(preset)


@pytest.mark.parametrize("page", [page for page in USER_PAGES if list(blocks(page, "python"))], ids=page_name)
def test_python_examples_compile_and_import_what_exists(page: Path) -> None:
    for _, text in blocks(page, "python"):
        compile(text, page.name, "exec")
        for module, names in re.findall(r"^from (adabldm\S*) import (.+)$", text, re.M):
            found = importlib.import_module(module)
            assert [name for name in names.split(", ") if not hasattr(found, name)] == []


def test_the_readme_has_the_headline_figures() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    snippet = (ROOT / "docs" / "snippets" / "headline.md").read_text(encoding="utf-8")
    assert f"<!-- headline: begin -->\n{snippet}<!-- headline: end -->" in readme
    assert len(readme.splitlines()) <= 90
    figures = re.findall(r"\d+\.\d ± \d+\.\d", snippet)
    assert not [figure for figure in figures if readme.count(figure) > snippet.count(figure)]


def test_files_and_names_of_the_architecture_exist() -> None:
    """Every path in it, and every name that stands beside a path in the table of changes."""
    text = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    quoted = set(re.findall(r"`([\w./-]+)`", text))
    found = [
        PACKAGE,
        *PACKAGE.rglob("*"),
        *(ROOT / name for name in ("docs", "tests", "tools", "benchmarks", "experiments")),
    ]
    names = {name for path in found for name in _names(path)}
    paths = {name for name in quoted if name.endswith((".py", "/"))}
    assert len(paths) > 30
    assert sorted(path for path in paths if path not in names) == []
    sources = "\n".join(path.read_text(encoding="utf-8") for path in PACKAGE.rglob("*.py"))
    identifiers = {name for name in quoted if re.fullmatch(r"[A-Z]\w+(\.\w+)?|[a-z]+_[a-z_]+", name)}
    unknown = [name for name in identifiers if name.split(".")[-1] not in sources]
    assert sorted(unknown) == []


def _names(path: Path) -> Iterator[str]:
    """How a file or folder may be called: by its path below the package, or by its name within its room."""
    end = "/" if path.is_dir() else ""
    yield from (path.name + end, str(path.relative_to(ROOT)) + end)
    if path.is_relative_to(PACKAGE):
        yield str(path.relative_to(PACKAGE)) + end


def test_every_setting_has_a_description() -> None:
    for command in COMMANDS:
        missing = [name for name, info in command.settings.model_fields.items() if not info.description]
        assert missing == []


def test_the_site_builds_strictly_and_asks_for_nothing_from_the_network(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    pages = {path.name: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    for page in pages.values():
        assert re.findall(r'<(?:link|script|img)[^>]+(?:src|href)="(?:https?:)?//[^"]+"', page) == []
        assert "<!-- generated:" not in page
    for command in COMMANDS:
        assert f"adabldm {command.name}" in pages["commands.html"]
    assert "look.strengths" in pages["settings.html"]
    assert "defect_fidelity" in pages["records.html"]
    assert "callback_on_step_end" in pages["python.html"]
