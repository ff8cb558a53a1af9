"""The house: floors, one door per heavy library, self-describing configs, and words that do not belong here."""

import ast
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "jam_jax"
FILES = sorted(PACKAGE.rglob("*.py"))

# Lower floors first. An entry is a module, or a package with all that is in it; a file may import from lower floors,
# from entries before its own on its floor, and from its own entry.
FLOORS = [
    [
        *(
            "model_config",
            "config",
            "tokens",
            "trees",
            "streaming",
            "disk",
            "machine",
            "hosts",
            "progress",
            "html",
            "chart",
            "dots",
        ),
        *("hardware", "flops", "hlo"),
    ],
    ["sharding", "losses", "optim", "sampling", "metrics"],
    ["models"],
    ["checkpoint_blocks", "checkpoint", "fuse", "convert", "data", "retrieval", "decode", "evaluate"],
    [
        *(
            "api",
            "terminal",
            "train_vqgan",
            "train_clip",
            "generate",
            "demo_desk",
            "demo_page",
            "demo",
            "train_step",
            "train_log",
            "train_eval",
            "train_run",
            "train",
        ),
        *("plan", "report_figures", "report", "stages", "quickstart", "miniature", "bench"),
    ],
]
COMMANDS = ["fuse", "convert", "data", "retrieval", "evaluate", "bench"]  # whose __main__ stands on the top floor
# Inside data/, in the order in which files may build on one another; formats/ is one entry.
DATA = [
    "settings", "documents", "formats", "clip_pictures", "inception_pictures", "clip_text", "scenes", "world_text",
    "world", "grader", "reading", "image_tokenizer", "sentencepiece_text", "json_text", "text_tokenizers", "grammars",
    "vocabulary", "tokenizers", "store", "parts", "recent", "order", "neighbours", "retrieved", "sequences", "stream",
    "cuts", "cm3", "blocks", "mixture", "loader", "feed",
]  # fmt: skip

# Heavy libraries → the only files (or folders) that may import them.
DOORS = {
    "torch": ["convert", "bench/train_torch", "bench/transformers_peer"],
    "safetensors": ["convert"],
    "orbax": ["checkpoint", "checkpoint_blocks"],
    "tyro": ["config"],
    "grain": ["data"],
    "tensorflow_datasets": ["data"],
    "array_record": ["data"],
    "sentencepiece": ["data/sentencepiece_text", "bench/tokenizing"],
    "tokenizers": ["data/json_text", "data/clip_text", "bench/tokenizing"],
    "pyarrow": ["data/formats/parquet"],
    "faiss": ["retrieval/index", "bench/retrieval"],
    "transformers": ["bench/train_torch", "bench/transformers_peer"],
    "gradio": ["demo_page"],
    "lm_eval": ["evaluate/harness"],
    "datasets": ["evaluate/harness"],
    "tensorflow": [],
}
# Libraries that open quickly enough to stand at the top of any file; the rest waits until it is used.
QUICK = {"numpy", "PIL", "jam_jax"}


def module(path):
    """`jam_jax/data/store.py` → `data/store`."""
    return path.relative_to(PACKAGE).with_suffix("").as_posix().removesuffix("/__init__")


def imports(path, top_level_only=False):
    """The dotted names that a file imports, `from a import b` as `a.b`; with those under TYPE_CHECKING left out."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        or (top_level_only and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def place(name):
    """(floor, order on the floor) of a module such as `data/store` or `fuse/__main__`."""
    parts = name.split("/")
    if parts[-1] == "__main__" and parts[0] in COMMANDS:
        return len(FLOORS) - 1, FLOORS[-1].index("api") + 0.5  # after the Python interface, before all other commands
    for floor, entries in enumerate(FLOORS):
        if parts[0] in entries:
            return floor, entries.index(parts[0])
    raise AssertionError(f"jam_jax/{name} stands on no floor: give it a place in tests/test_house.py and in DESIGN")


def ours(path):
    """The modules of the package that a file imports, as `data/store`."""
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != "jam_jax":
            continue
        # The longest part of the dotted name that is a file or a package; the rest is a name inside it.
        for end in range(len(parts), 1, -1):
            inner = "/".join(parts[1:end])
            if (PACKAGE / f"{inner}.py").is_file() or (PACKAGE / inner).is_dir():
                yield inner
                break


@pytest.mark.parametrize("path", FILES, ids=module)
def test_a_file_imports_from_its_floors_earlier_files_and_lower_floors_only(path):
    name = module(path)
    if name in (".", "", "__init__"):
        # The package itself opens its doors when they are used.
        assert not [n for n in imports(path, top_level_only=True) if n.split(".")[0] == "jam_jax"]
        return
    if name == "bench":
        return
    for other in ours(path):
        same_entry = other.split("/")[0] == name.split("/")[0] and "__main__" not in name
        allowed = place(other) < place(name) or same_entry
        assert allowed, f"jam_jax/{name} imports jam_jax/{other}, which is not on a lower floor nor before it"


@pytest.mark.parametrize("path", [p for p in FILES if module(p).startswith("data/")], ids=module)
def test_the_data_floor_builds_upwards(path):
    order = {entry: i for i, entry in enumerate(DATA)}
    own = module(path).split("/")[1]
    if own == "__main__":
        return
    for other in ours(path):
        if other.startswith("data/"):
            entry = other.split("/")[1]
            assert order[entry] <= order[own], f"data/{own} imports data/{entry}, which comes after it"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_heavy_libraries_have_one_door(path):
    name = module(path)
    for library in {n.split(".")[0] for n in imports(path)} & set(DOORS):
        doors = DOORS[library]
        assert any(name == door or name.startswith(door + "/") for door in doors), (
            f"jam_jax/{name} imports {library}, whose only door is {' or '.join(doors) or 'none'}"
        )


COMMAND_FILES = ["train", "plan", "generate", "demo", "quickstart", "miniature", "report"]


@pytest.mark.parametrize("name", ["config", "tokens", "progress", "html", "chart", "dots", *COMMAND_FILES])
def test_what_a_help_text_needs_opens_no_heavy_library(name):
    """A command's file and the lowest floor load nothing slow at their top, nor do our files that they load there."""
    seen, waiting = set(), [name]
    while waiting:
        current = waiting.pop()
        if current in seen or not (PACKAGE / f"{current}.py").is_file():
            continue
        seen.add(current)
        path = PACKAGE / f"{current}.py"
        for imported in imports(path, top_level_only=True):
            top = imported.split(".")[0]
            assert top in QUICK | set(sys.stdlib_module_names), f"jam_jax/{current} imports {imported} at its top"
        waiting += [o for o in ours(path) if any(o.replace("/", ".") in i for i in imports(path, top_level_only=True))]


@pytest.mark.parametrize("path", FILES, ids=module)
def test_every_file_says_what_it_is(path):
    text = path.read_text()
    assert not text.strip() or ast.get_docstring(ast.parse(text)), f"{path} has no docstring"
    assert len(text.splitlines()) <= 400, f"{path} holds more than one idea: {len(text.splitlines())} lines"


@pytest.mark.parametrize("path", FILES, ids=module)
def test_what_stands_behind_an_option_is_for_its_reader(path):
    """tyro shows a field's comment as its help: what is meant for a type checker stands elsewhere."""
    shown = re.findall(r"^    \w+: [^#\n]*# (?:type: |noqa).*", path.read_text(), re.MULTILINE)
    assert not shown, shown


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.py")), ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_config_describes_itself(path):
    tree = ast.parse(path.read_text())
    if not path.name.startswith("_"):
        assert "get_config" in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    docstring = ast.get_docstring(tree)
    assert docstring, f"{path} has no docstring"
    if path.parent.name != "paper" and not path.name.startswith("_"):
        assert "python -m jam_jax." in docstring, f"{path} does not name its command"


def tracked_texts():
    for folder in ("jam_jax", "configs", "tests", "launch", "docs", ".ci"):
        yield from (p for p in (ROOT / folder).rglob("*") if p.suffix in (".py", ".sh", ".md", "") and p.is_file())
    yield from (ROOT / n for n in ("README.md", "CHANGELOG.md", "pyproject.toml", "requirements.txt", ".gitignore"))


# Put together from pieces, so that this file does not hold them itself.
FORBIDDEN = [
    r"\b(issue|session)s? #?\d",
    r"\bpypi\." + r"org\b",
    r"\bfiles\." + r"pythonhosted\b",
    r"/work" + r"/",
    r"\b(claude|anthropic|chatgpt|copilot)\b",
    r"\bTODO(?! \()",  # a TODO names what it waits for, in brackets
]


@pytest.mark.parametrize("pattern", FORBIDDEN)
def test_no_word_of_how_this_was_made(pattern):
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()[:100]}"
        for path in tracked_texts()
        if path.name != "test_house.py" and "__pycache__" not in path.parts
        for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1)
        if re.search(pattern, line, re.IGNORECASE)
    ]
    assert not found, "\n".join(found)


def test_jax_and_flax_are_pinned_as_a_pair_for_each_python():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all("==" in pin for pin in pins)
    for library in ("jax", "jaxlib", "flax"):
        markers = [pin.split(";")[1].strip() for pin in pins if pin.startswith(library + "==")]
        assert sorted(markers) == ['python_version < "3.12"', 'python_version >= "3.12"']


@pytest.mark.parametrize(
    ("name", "floor"), [("tokens", 0), ("models/cross", 2), ("data/store", 3), ("data/__main__", 4), ("train", 4)]
)
def test_floors_by_hand(name, floor):
    assert place(name)[0] == floor
