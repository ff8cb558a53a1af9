"""wikiHow articles as illustrated answers, chosen and worded as JAM's instruction data (arXiv 2309.15564).

The layout is that of wikiHow-VGSI (arXiv 2104.05845), an article a line in `WikihowText_data.json`:

    {"file_id": "10000798", "goal": "How to Hang an Ironing Board", "goal_description": "This article shows you …",
     "category_hierarchy": ["Home and Garden", …], "rating": 93,
     "methods": [{"name": "Hanging It Over a Door",
                  "steps": [{"headline": "Find a door.", "description": "…", "img": "…", "step_id": "10000798_0_0"}]}]}

with the picture of a step, where its `img` is not empty, in `wiki_images/STEP_ID.png` beside that file (or in the
directory `--images`). That crawl has no ratings: `rating`, the percentage of readers that the article helped, is ours.
To choose the articles the whole file is read once more, for every shard; what is kept is a hash of each.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any

from jam_jax.data.documents import Document, merged
from jam_jax.data.formats.files import Folder, text
from jam_jax.data.formats.splits import digest
from jam_jax.data.formats.table import Layout, Values
from jam_jax.data.settings import ReadSettings, Wikihow

PICTURES = "wiki_images"


@dataclasses.dataclass(frozen=True)
class Article:
    """What is read of an article; steps are (text, id of the picture or "")."""

    title: str
    description: str
    category: str  # the topmost; "" if it has none
    rating: float | None  # per cent
    methods: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]  # name, steps

    @property
    def pictures(self) -> int:
        """How many steps have one."""
        return sum(bool(picture) for _, steps in self.methods for _, picture in steps)


def is_wikihow(values: Values) -> bool:
    """Whether a row is laid out as an article."""
    return isinstance(values.get("goal"), str) and isinstance(values.get("methods"), list)


def layout(settings: ReadSettings, rows: list[Values]) -> Layout:
    """The layout of articles. ValueError if no row is one."""
    if not any(map(is_wikihow, rows)):
        raise ValueError('these are no wikiHow articles: expected {"goal": title, "methods": [{"steps": …}, …], …}')
    return Layout(
        "wikiHow articles",
        functools.partial(_documents, settings.wikihow, "" if settings.images else PICTURES + "/"),
        _key,
        ("goal", "goal_description", "category_hierarchy", "rating", "methods"),
        functools.partial(choose, settings.wikihow),
    )


def parse(values: Values) -> Article:
    """An article; ValueError if the row is not laid out as one."""
    rating, categories = values.get("rating"), values.get("category_hierarchy") or []
    if rating is not None and (type(rating) not in (int, float) or not 0 <= rating <= 100):
        raise ValueError(f"a rating is a percentage from 0 to 100, got {rating!r}")
    if not (title := text(values.get("goal"))):
        raise ValueError("the article has no goal (its title)")
    methods = tuple(
        (text(method.get("name")), tuple(_step(step) for step in _dicts(method.get("steps"), "steps")))
        for method in _dicts(values.get("methods"), "methods")
    )
    category = text(categories[0]) if isinstance(categories, list) and categories else ""
    return Article(title, text(values.get("goal_description")), category, rating, methods)


def choose(options: Wikihow, rows: Iterable[Values]) -> Callable[[Values], bool]:
    """Which articles are taken: those above the rating, with few enough pictures, and of them as many as asked for.

    Balanced, they are taken from the categories in turn, each category's in the order of a hash, until there are
    enough or none is left: a category gives less than another only if it has no more. ValueError if the articles are
    to be chosen by a rating that none of them states.
    """
    ranked: dict[str, list[bytes]] = {}
    rated = False
    for values in rows:
        try:
            article = parse(values)
        except ValueError:
            continue  # read again, and told, as a damaged record
        rated = rated or article.rating is not None
        if _fits(options, article):
            ranked.setdefault(article.category if options.balanced else "", []).append(digest(_key(values)))
    if options.rating and not rated:
        raise ValueError("no wikiHow article states a `rating`: add it, or take all articles with --wikihow.rating 0")
    order = [(rank, key) for keys in ranked.values() for rank, key in enumerate(sorted(set(keys)))]
    taken = {key for _, key in sorted(order)[: options.articles or None]}

    def chosen(values: Values) -> bool:
        return _fits(options, parse(values)) and digest(_key(values)) in taken

    return chosen


def _fits(options: Wikihow, article: Article) -> bool:
    rated = not options.rating or (article.rating is not None and article.rating > options.rating)
    return rated and (options.more == "cut" or article.pictures <= options.pictures)


def _documents(options: Wikihow, pictures: str, values: Values, folder: Folder) -> list[Document]:
    article = parse(values)
    parts: list[str | bytes] = [article.description]
    left = options.pictures
    for name, steps in article.methods:
        parts.append(name)
        for words, picture in steps:
            parts.append(words)
            if picture and left:
                left -= 1
                parts.append(folder.picture(f"{pictures}{picture}.png") or "")
    worded = merged(_worded(part, options.this_article) if isinstance(part, str) else part for part in parts)
    if options.asks:
        return [Document(worded, article.title)]
    return [Document(merged((article.title, *worded)))]


def _worded(words: str, this_article: str) -> str:
    """A text that says of itself that it is an answer, not an article."""
    if not this_article:
        return words
    small = this_article[:1].lower() + this_article[1:]
    return words.replace("This article", this_article).replace("this article", small)


def _key(values: Values) -> Any:
    return values.get("goal")


def _step(step: Values) -> tuple[str, str]:
    """Text and picture of a step."""
    picture = text(step.get("step_id")) if step.get("img") else ""
    if step.get("img") and not picture:
        raise ValueError("a step has a picture (img) but no step_id that names its file")
    return "\n".join(filter(None, (text(step.get("headline")), text(step.get("description"))))), picture


def _dicts(value: Any, name: str) -> list[Values]:
    if not isinstance(value, list) or not value or not all(isinstance(entry, dict) for entry in value):
        raise ValueError(f"{name} is a list of one object or more")
    return value
