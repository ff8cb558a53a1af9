"""The road of the quickstart as a table: stage by stage, the commands that a person would type.

The built-in world and a user's own data take the same road; they differ in where documents come from.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

from jam_jax import config as configs

MINUTES = 15  # for which the configs' numbers of steps are meant, on two cores

# How pictures and answers are sampled, chosen on the built-in world's validation split. The paper draws at guidance
# 3.5; minutes of training leave a noisy contrast, and so much of it garbles, inside an answer sooner than alone.
DRAWING = ["--settings.guidance", "1.5", "--settings.image.top-p", "0.8"]
ANSWERING = ["--settings.guidance", "1.2", "--settings.image.top-p", "0.8", "--settings.text.temperature", "0.3"]
# On a user's own data captions are few and learnt by heart: what is likeliest is what was seen. Of 120 captions trained
# on in an hour, 93% were drawn nearest to their own picture of 1,237 like this, 58% like DRAWING.
OWN = ["--settings.guidance", "1", "--settings.image.top-p", "0.3"]

Command = list[str]  # what stands behind `python -m jam_jax.`: ["fuse", "cross", "--llm", …]


@dataclasses.dataclass(frozen=True)
class Stage:
    """One step of the road."""

    name: str
    title: str
    commands: Callable[[], list[Command]]  # asked when all stages before are done
    outputs: tuple[str, ...]  # files and directories under the run's, removed before the stage runs
    inputs: tuple[str, ...] = ()  # files that it reads and that a person may change, such as its config
    always: bool = False  # never kept: what it shows is wanted every time


@dataclasses.dataclass(frozen=True)
class Road:
    """What a quickstart is made of."""

    run: Path  # its directory
    fusion: str  # uniform, width or cross
    minutes: float  # on two cores; training is scaled to it
    pictures: str = ""  # a user's own pictures; "": the built-in world
    text: str = ""  # a user's own text; "": the built-in world

    @property
    def own(self) -> bool:
        """Whether it runs on a user's own data."""
        return bool(self.pictures)

    def of_other_data(self) -> "Road":
        """The road in the same directory on the built-in world instead of own data, or the reverse."""
        elsewhere = "" if self.own else "elsewhere"
        return dataclasses.replace(self, pictures=elsewhere, text=elsewhere)

    @property
    def about(self) -> str:
        """What it is made on, as stamps and messages say it."""
        return f"the pictures of {self.pictures} and the text of {self.text}" if self.own else "the built-in world"

    def source(self, kind: str) -> str:
        """Where the documents of `text`, `captions` or `illustrated` come from."""
        if self.own:
            return self.text if kind == "text" else self.pictures
        return self.at("world", kind)

    def at(self, *names: str) -> str:
        """A path under the run's directory."""
        return str(self.run.joinpath(*names))

    def config(self, name: str) -> str:
        """The config file of a training stage."""
        return f"configs/{'own' if self.own else 'world'}/{name}.py"

    def train(self, name: str, out: str, *, init: str = "", model: bool = False, scaled: bool = True) -> Command:
        """The training command of a config, with what differs from the config's own values.

        Stores keep the names that the config gives them, under this run's directory. `model`: a decoder that is
        trained from nothing takes its vocabulary from the tokenizer, whose size depends on the text it was trained on.
        `scaled`: its steps follow `minutes`.
        """
        path = self.config(name)
        config = configs.read_config(path)
        wanted: dict[str, tuple[object, object]] = {"out": (config.out, self.at(out))}
        if init:
            wanted["init"] = (config.init, self.at(init))
        elif model:
            wanted["tokenizer"] = (config.tokenizer, self.at("tokenizer"))
        for i, source in enumerate(config.data.sources):
            wanted[f"data.sources.{i}.store"] = (source.store, self.at("stores", Path(source.store).name))
            if source.neighbours:
                table = self.at("neighbours", Path(source.neighbours).name)
                wanted[f"data.sources.{i}.neighbours"] = (source.neighbours, table)
        if config.data.pictures:
            named = dict.fromkeys(self.source(Path(source).name) for source in config.data.pictures)
            wanted["data.pictures"] = (config.data.pictures, tuple(named))
        share = self.minutes / MINUTES if scaled else 1
        wanted["steps"] = (config.steps, max(1, round(config.steps * share)))
        wanted["optim.warmup"] = (config.optim.warmup, round(config.optim.warmup * share))
        command = ["train", "--config", path]
        for option, (given, value) in wanted.items():
            if given != value:
                command += ["--" + option, *(value if isinstance(value, tuple) else [str(value)])]
        if model:
            rows = json.loads(Path(self.at("tokenizer", "tokens.json")).read_text())["vocab_size"]
            if rows != config.model.vocab_size:
                command += ["--model.vocab-size", str(rows)]
        return command

    def convert(self, parent: str) -> list[Command]:
        """A trained parent to a PyTorch-format directory and back: the road that a user's own parents take."""
        there, back = self.at("exported", parent), self.at("parents", parent)
        rotary = configs.read_config(self.config("llm")).model.positions == "rope"
        family = "llama" if rotary else "opt"  # the layouts of the configs' two architectures
        return [
            ["convert", "export", "--source", self.at(parent), "--target", there, "--family", family],
            ["convert", "import", "--source", there, "--target", back],
        ]

    def measure(self, **models: str) -> list[Command]:
        """Perplexity of models on held-out text and captions, by the names under which the report knows them."""
        return [self._measure(n, d, kind) for n, d in models.items() for kind in ("text", "captions")]

    def _measure(self, name: str, directory: str, kind: str) -> Command:
        model, store = self.at(*directory.split("/")), self.at("stores", f"{kind}-test")
        out = self.at("measured", f"{name}-{kind}.json")
        return ["evaluate", "perplexity", "--model", model, "--store", store, "--out", out]

    def retrieval(self) -> list[Command]:
        """Vectors of the captioned pictures, their bank, and the neighbours of each pair that is trained and tested on.

        Captions ask alone, as they do when something is drawn for them.
        """
        store, vectors = self.at("stores", "captions-train"), self.at("embeddings")
        embed = ["retrieval", "embed", "--clip", self.at("clip"), "--store", store, "--target", vectors]
        build = ["retrieval", "build", "--embeddings", vectors, "--target", self.at("bank")]
        return [
            [*embed, "--source", self.source("captions")],
            build,
            self._neighbours("train"),
            self._neighbours("test"),
        ]

    def _neighbours(self, split: str) -> Command:
        name = f"captions-{split}"
        command = ["retrieval", "neighbours", "--bank", self.at("bank"), "--store", self.at("stores", name)]
        return [*command, "--target", self.at("neighbours", name), "--queries", "1", "--count", "2", "--by", "text"]

    def measure_retrieving(self) -> Command:
        """Perplexity of captions behind their neighbours."""
        table = self.at("neighbours", "captions-test")
        return [*self._measure("fused_retrieving", "tuned", "captions"), "--neighbours", table]

    def draw(self, name: str, model: str, split: str = "test", *, retrieving: bool = False) -> Command:
        """Drawings of captions by a model."""
        command = ["evaluate", "draw", "--model", self.at(*model.split("/")), "--captions", self.source("captions")]
        command += ["--out", self.at("samples", name), "--split", split]
        command += [*OWN, "--count", "24"] if self.own else [*DRAWING, "--count", "200"]
        return [*command, "--retrieve", "2", "--bank", self.at("bank")] if retrieving else command

    def answer(self) -> Command:
        """Illustrated answers of the fusion."""
        questions = ["--questions", self.source("illustrated"), "--out", self.at("samples", "answers")]
        sampled = [*OWN, "--settings.text.temperature", "0.3"] if self.own else ANSWERING
        return ["evaluate", "answer", "--model", self.at("tuned"), *questions, *sampled]

    def tokenize(self) -> list[Command]:
        """Token stores of every source and split."""
        kinds, splits = ("text", "captions", "illustrated"), ("train", "test")
        return [self._tokenize(kind, split) for kind in kinds for split in splits]

    def _tokenize(self, kind: str, split: str) -> Command:
        command = ["data", "tokenize", "--source", self.source(kind), "--split", split]
        command += ["--tokenizer", self.at("tokenizer"), "--target", self.at("stores", f"{kind}-{split}")]
        return [*command, "--captions-ask"] if self.own and kind == "illustrated" else command

    def texts(self) -> list[str]:
        """What the text tokenizer is trained on."""
        return [self.source(kind) for kind in ("text", "captions") + (() if self.own else ("illustrated",))]

    def parts(self) -> list[str]:
        """The two halves of the tokenizer as options."""
        return ["--text", self.at("text.model"), "--image", self.at("image_tokenizer"), "--sentinels", "30"]

    def samples(self) -> list[Command]:
        """Everything that is drawn and answered."""
        drawn = [self.draw("img_parent", "parents/img"), self.draw("fused", "tuned")]
        if self.own:
            return [*drawn, self.draw("trained_on", "tuned", "train"), self.answer()]
        return [*drawn, self.draw("fused_retrieving", "tuned", retrieving=True), self.answer()]

    def stages(self) -> list[Stage]:
        """The road, in order."""
        parents = ["--llm", self.at("parents", "llm"), "--img", self.at("parents", "img")]
        before = ("llm_parent-*.json", "img_parent-*.json", "fused_before-*.json")
        after = ("pretrained-*.json", "fused-*.json") + (() if self.own else ("fused_retrieving-*.json",))
        return [
            *([] if self.own else [self.world()]),
            Stage(
                "text_tokenizer",
                "Train the text tokenizer",
                lambda: [["data", "train-text", "--sources", *self.texts(), "--target", self.at("text.model")]],
                ("text.model",),
            ),
            Stage(
                "image_tokenizer",
                "Train the image tokenizer",
                lambda: [self.train("image_tokenizer", "image_tokenizer")],
                ("image_tokenizer",),
                (self.config("image_tokenizer"), "configs/world/image_tokenizer.py"),  # the first may read the second
            ),
            Stage(
                "tokenizer",
                "Put the tokenizer together",
                lambda: [["data", "assemble", *self.parts(), "--target", self.at("tokenizer")]],
                ("tokenizer",),
            ),
            Stage("stores", "Turn text and pictures into tokens", self.tokenize, ("stores",)),
            *([] if self.own else self.retrieving()),
            Stage(
                "llm",
                "Train the text parent",
                lambda: [self.train("llm", "llm", model=True)],
                ("llm",),
                (self.config("llm"),),
            ),
            Stage(
                "img",
                "Train the image parent",
                lambda: [self.train("img", "img", model=True)],
                ("img",),
                (self.config("img"),),
            ),
            Stage(
                "parents",
                "Export both parents to PyTorch's format and import them again",
                lambda: self.convert("llm") + self.convert("img"),
                ("exported", "parents"),
            ),
            Stage(
                "fused",
                "Fuse them",
                lambda: [["fuse", self.fusion, *parents, "--target", self.at("fused")]],
                ("fused",),
            ),
            Stage(
                "before",
                "Measure the parents and the untrained fusion",
                lambda: self.measure(llm_parent="parents/llm", img_parent="parents/img", fused_before="fused"),
                tuple(f"measured/{name}" for name in before),
            ),
            Stage(
                "pretrained",
                "Train the fusion on text and pictures",
                lambda: [self.train("cpt", "pretrained", init="fused")],
                ("pretrained",),
                (self.config("cpt"),),
            ),
            Stage(
                "tuned",
                "Teach it to answer with text and pictures",
                lambda: [self.train("instruct", "tuned", init="pretrained")],
                ("tuned",),
                (self.config("instruct"),),
            ),
            Stage(
                "after",
                "Measure the trained fusion",
                lambda: [
                    *self.measure(pretrained="pretrained", fused="tuned"),
                    *([] if self.own else [self.measure_retrieving()]),
                ],
                tuple(f"measured/{name}" for name in after),
            ),
            Stage("samples", "Draw and answer", self.samples, ("samples",)),
            Stage(
                "report",
                "Write the report",
                lambda: [["report", "--run", str(self.run)]],
                ("report.html", "summary.json"),
                always=True,
            ),
        ]

    def world(self) -> Stage:
        """The built-in world, which stands in for a user's own data."""
        title, command = "Make a small world of pictures and text", ["data", "world", "--target", self.at("world")]
        return Stage("world", title, lambda: [command], ("world",))

    def retrieving(self) -> list[Stage]:
        """What retrieval needs, on the built-in world; a user's own pictures want a CLIP that has seen such."""
        title = "Train the CLIP that retrieval searches with"
        # Half trained it would find all documents alike: seconds are not what to save at.
        clip = Stage(
            "clip", title, lambda: [self.train("clip", "clip", scaled=False)], ("clip",), (self.config("clip"),)
        )
        made = ("embeddings", "bank", "neighbours")
        return [clip, Stage("retrieval", "Find for each caption the documents like it", self.retrieval, made)]
