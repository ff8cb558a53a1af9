"""Tiny datasets made by hand, in the formats that a user brings, and a tiny tokenizer to write stores with."""

import csv
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image

from jam_jax.config import VqganConfig
from jam_jax.data import formats
from jam_jax.data.settings import ReadSettings

ALL = ReadSettings(held_out=0)  # nothing is held out: the split train is the whole
VQGAN = VqganConfig(32, 4, (1, 1, 1, 1), 1, (), groups=2, z_channels=4, codes=16, code_width=4)


def picture(value, kind="PNG", side=8):
    """A grey picture, encoded."""
    file = io.BytesIO()
    Image.fromarray(np.full((side, side, 3), value, np.uint8)).save(file, kind)
    return file.getvalue()


def json_lines(path, rows):
    """Rows, or lines as they stand, as a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def parquet(path, rows, row_group_size=None, **options):
    import pyarrow
    import pyarrow.parquet

    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=row_group_size, **options)
    return path


def image_folder(directory, count=40, damage=()):
    """`count` pictures with captions; damage: (number, what stands in its line or its file)."""
    directory.mkdir()
    lines = []
    for i in range(count):
        (directory / f"{i}.png").write_bytes(picture(i))
        lines.append(json.dumps({"file_name": f"{i}.png", "text": f"grey {i}"}))
    for i, line in damage:
        lines[i] = line
    (directory / "metadata.jsonl").write_text("\n".join(lines) + "\n\n")
    return directory


def csv_folder(directory, count=40):
    directory.mkdir()
    with (directory / "metadata.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file_name", "text"])
        for i in range(count):
            (directory / f"{i}.png").write_bytes(picture(i))
            writer.writerow([f"{i}.png", f"grey {i}"])
    return directory


def sidecar_folder(directory, count=40):
    (directory / "below").mkdir(parents=True)
    for i in range(count):
        folder = directory / "below" if i % 2 else directory
        (folder / f"{i}.png").write_bytes(picture(i))
        (folder / f"{i}.txt").write_text(f"grey {i}\n")
    return directory


def text_folder(directory, count=40):
    (directory / "below").mkdir(parents=True)
    for i in range(count):
        folder = directory / "below" if i % 2 else directory
        (folder / f"{i}.txt").write_text(f"text {i}\n\nsecond paragraph of {i}, naïve\n")
    return directory


def prepared(directory, features, examples):
    """A dataset as a user has it: prepared by TFDS itself, from a builder of the user's own, and shuffled by it."""
    import tensorflow_datasets
    from tensorflow_datasets import features as f

    class Mine(tensorflow_datasets.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tensorflow_datasets.core.Version("2.1.0")

        def _info(self):
            return self.dataset_info_from_configs(features=f.FeaturesDict(features))

        def _split_generators(self, download_manager):
            return {"train": self._generate_examples(examples), "validation": self._generate_examples(examples[:1])}

        def _generate_examples(self, chosen):
            yield from enumerate(chosen)

    Mine.name = "mine"
    Mine.pkg_dir_path = directory
    builder = Mine(data_dir=directory, file_format="array_record")
    builder.download_and_prepare()
    return directory / "mine"


def tfds_texts(directory, examples):
    """A prepared dataset with a text feature."""
    from tensorflow_datasets import features as f

    return prepared(directory, {"text": f.Text()}, examples)


def coco(directory, pictures=6, each=5, split="train2017"):
    """Captions and pictures, laid out as COCO is published."""
    images = [{"id": 100 + i, "file_name": f"{i:012}.png", "height": 8} for i in range(pictures)]
    captions = [
        {"id": j, "image_id": 100 + j % pictures, "caption": f"{j % pictures} by {j}"} for j in range(pictures * each)
    ]
    (directory / split).mkdir(parents=True)
    for i, image in enumerate(images):
        (directory / split / image["file_name"]).write_bytes(picture(i))
    (directory / "annotations").mkdir(exist_ok=True)
    file = directory / "annotations" / f"captions_{split}.json"
    file.write_text(json.dumps({"info": {}, "images": images, "licenses": [], "annotations": captions}))
    return directory


def article(number, category="Crafts", rating=95, pictures=1, **changes):
    """A wikiHow article with a method of two steps for every picture."""
    methods = [
        {
            "name": f"Method {m}",
            "steps": [
                {
                    "headline": "Begin.",
                    "description": "This article says how.",
                    "img": "x",
                    "step_id": f"{number}_{m}_0",
                },
                {"headline": "End.", "description": "", "img": "", "step_id": f"{number}_{m}_1"},
            ],
        }
        for m in range(pictures)
    ] or [{"name": "", "steps": [{"headline": "Think.", "description": ""}]}]
    about = {"file_id": str(number), "goal": f"How to Do {number}", "goal_description": "This article teaches you."}
    return about | {"category_hierarchy": [category, "Below"], "rating": rating, "methods": methods} | changes


def wikihow(directory, articles):
    """Articles and the pictures of their steps, laid out as wikiHow-VGSI."""
    json_lines(directory / "WikihowText_data.json", articles)
    (directory / "wiki_images").mkdir()
    for each in articles:
        for method in each["methods"]:
            for step in method["steps"]:
                if step.get("img"):
                    (directory / "wiki_images" / f"{step['step_id']}.png").write_bytes(picture(len(method["name"])))
    return directory


def read_set(source, split="train", settings=ReadSettings()):
    return {(d.question, d.parts) for d in formats.read(source, split, settings)}


def parts(source, split="train", settings=ALL):
    """The parts of the documents, in their order."""
    return [d.parts for d in formats.read(source, split, settings)]


def tokenizer(root: Path) -> Path:
    """A tokenizer of 300 pieces and a random VQGAN, whose parameters are drawn: its initialisation takes seconds."""
    import jax

    from jam_jax import checkpoint
    from jam_jax.data.__main__ import main

    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda s: rng.normal(0, 0.5, s.shape).astype(np.float32), checkpoint.shapes(VQGAN))
    checkpoint.save_model(root / "vqgan", VQGAN, params)
    (root / "texts").mkdir()
    for i in range(4):
        (root / f"texts/{i}.txt").write_text(f"a caption of a grey picture, number {i}, and some more of its words")
    main(["train-text", "--sources", f"{root}/texts", "--target", f"{root}/text.model", "--vocab", "300"])
    main(["assemble", "--text", f"{root}/text.model", "--image", f"{root}/vqgan", "--target", f"{root}/tokenizer"])
    return root / "tokenizer"
