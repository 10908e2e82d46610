"""The notes' links, and the notes that sources name, exist."""

import re

LINK = re.compile(r"\]\(([^)\s]+)\)")
MENTION = re.compile(r"\bdocs/[\w/-]+\.md\b")


def files(root, folders, *endings):
    """The root's own files and those below the folders, of these endings."""
    found = [*root.glob("*"), *(path for folder in folders for path in (root / folder).rglob("*"))]
    return [path for path in found if path.is_file() and path.suffix in endings]


def anchors(text):
    """GitHub's: a heading in lower case, punctuation left out, spaces as dashes."""
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
            for heading in re.findall(r"^#+ (.+)$", text, re.MULTILINE)}


def test_links(root):
    links = [(note, link) for note in files(root, ["docs", "weights"], ".md")
             for link in LINK.findall(note.read_text()) if not re.match(r"\w+:", link)]
    assert links
    for note, link in links:
        path, _, anchor = link.partition("#")
        target = note.parent / path if path else note
        assert target.exists(), f"{note}: {link}"
        assert not anchor or anchor in anchors(target.read_text()), f"{note}: {link}"


def test_kernels_that_notes_name(root):
    names = [(note, name) for note in files(root, ["docs"], ".md")
             for name in re.findall(r"`(?:kernels/)?(\w+\.cuh?)`", note.read_text())]
    assert names
    for note, name in names:
        assert (root / "kernels" / name).exists(), f"{note}: {name}"


def test_notes_that_sources_name(root):
    names = [(path, name) for path in files(root, ["src", "include", "kernels", "tests", "tools", "python"],
                                            ".c", ".h", ".cu", ".cuh", ".py", ".sh")
             for name in MENTION.findall(path.read_text())]
    assert names
    for path, name in names:
        assert (root / name).exists(), f"{path}: {name}"
