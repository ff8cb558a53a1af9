"""TFDS datasets in ArrayRecord files, written and read without TensorFlow: the built-in world's and a user's own.

Pictures stay encoded: they are read as the bytes that were written, and decoded where they are tokenized.
"""

import contextlib
import functools
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jam_jax.data.documents import Document, merged
from jam_jax.data.formats import columns
from jam_jax.data.formats.columns import TEXT_NAMES
from jam_jax.data.formats.files import Folder
from jam_jax.data.formats.pictures import decode_picture
from jam_jax.data.formats.source import Record, Source, numbered
from jam_jax.data.settings import ReadSettings

VERSION = "1.0.0"
# A feature's kind when writing: "text", "image", or a sequence of dictionaries of those.
Kind = str | Mapping[str, str]


def is_tfds(directory: Path) -> bool:
    """Whether there is a dataset here, or in a version or config directory below."""
    return directory.is_dir() and bool(_versions(directory))


def write(
    directory: str | Path, name: str, features: Mapping[str, Kind], splits: Mapping[str, Iterable[Mapping[str, Any]]]
) -> None:
    """Write the examples of every split as the dataset `directory/name/1.0.0`, all of it or nothing.

    A text is a str, a picture PNG bytes, a sequence a list of dictionaries. ValueError if the dataset exists,
    OSError if the disk is full.
    """
    import tensorflow_datasets as tfds
    from array_record.python.array_record_module import ArrayRecordWriter

    target = Path(directory) / name / VERSION
    if target.exists():
        raise ValueError(f"{target} exists; remove it first, or write elsewhere")
    aside = target.with_name(f".{VERSION}.partial")
    shutil.rmtree(aside, ignore_errors=True)  # of a run that was killed
    aside.mkdir(parents=True)
    try:
        connector = _feature(features)
        infos = []
        for split, examples in splits.items():
            template = tfds.core.ShardedFileTemplate(
                data_dir=aside, dataset_name=name, split=split, filetype_suffix="array_record"
            )
            count = size = 0
            with full_disk(target):
                path = os.fspath(template.sharded_filepath(shard_index=0, num_shards=1))
                writer = ArrayRecordWriter(path, "group_size:1")
            for example in examples:
                record = connector.serialize_example(connector.encode_example(example))
                with full_disk(target):
                    writer.write(record)
                count, size = count + 1, size + len(record)
            with full_disk(target):
                writer.close()
            infos.append(
                tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=size, filename_template=template)
            )
        # Reading back the first example, TFDS's own check, needs TensorFlow.
        tfds.folder_dataset.write_metadata(
            data_dir=aside, features=connector, split_infos=infos, version=VERSION, check_data=False
        )
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
        if not any(target.parent.iterdir()):
            target.parent.rmdir()


@contextlib.contextmanager
def full_disk(target: Path) -> Iterator[None]:
    """ArrayRecord reports a full disk as RuntimeError; here it is the OSError that it is."""
    try:
        yield
    except RuntimeError as error:
        raise OSError(f"cannot write {target}: {_line(error)}") from error


def examples(directory: str | Path, split: str = "train") -> Iterator[dict[str, Any]]:
    """The examples of a split as they are stored: texts as str, pictures as bytes, a sequence as a dictionary of lists.

    ValueError if there is no such dataset or split, or if its files are damaged or no ArrayRecord.
    """
    length, example = _open(Path(directory), split)[:2]
    return (example(i) for i in range(length))


def named(name: str) -> Path | None:
    """Where a dataset is that TFDS has prepared: `NAME`, `NAME:VERSION` or `NAME/CONFIG:VERSION`; None if it is not.

    It is looked for where TFDS keeps its data, `$TFDS_DATA_DIR` or `~/tensorflow_datasets`; nothing is downloaded.
    """
    if not re.fullmatch(r"\w+(/[\w.-]+)?(:[\w.]+)?", name):
        return None
    home = Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()
    directory = home / name.replace(":", "/")
    return directory if is_tfds(directory) else None


def open_tfds(directory: Path, split: str, settings: ReadSettings) -> Source:
    """The documents of a split. The features that make a document are those that `settings.columns` names.

    If it names none, they are told by their kinds:

    - a sequence with an image in its entries (`steps`) is an illustrated text: of every entry its text, then its image;
      the text feature `ending`, if there is one, closes it;
    - else an image and the first text are a picture with its caption; the first entry of a sequence of texts and the
      name of a class label count as texts, and texts named in TEXT_NAMES come first;
    - else the first text alone;
    - a text `question` is what the document answers (then a text `answer` comes first among the texts).

    `split` may be any that TFDS knows (`train`, `validation`, `train[:95%]`). Errors as of `examples`; ValueError if
    there is neither text nor image, or no feature that was named.
    """
    length, example, features = _open(directory, split)
    taken, how = settings.columns, ""
    if taken.named:
        how = f", {columns.described(columns.check(taken, directory, [example(0)]))}"
    to_document = None if taken.named else _plan(directory, features)
    folder = Folder(directory, directory.resolve())  # a text feature may name a picture's file

    def read(i: int) -> list[Document]:
        if to_document is None:
            return columns.documents(taken, settings.captions, example(i), folder)
        document = to_document(example(i))
        for picture in document.pictures:
            decode_picture(picture)  # what decodes here decodes when it is tokenized
        return [document]

    def record(i: int) -> Record:
        return Record(functools.partial("record {}".format, i), functools.partial(read, i))

    return numbered(f"{directory} ({split})", f"a TFDS dataset{how}", length, record, settings.damaged)


def _versions(directory: Path) -> list[Path]:
    """Directories with a `features.json`: this one, or those one or two levels below."""
    for pattern in ("features.json", "*/features.json", "*/*/features.json"):
        if found := sorted(path.parent for path in directory.glob(pattern)):
            return found
    return []


def _builder(directory: Path) -> Any:
    import tensorflow_datasets as tfds

    found = _versions(directory)
    if len(found) != 1:
        names = ", ".join(str(path.relative_to(directory)) for path in found) or "none"
        raise ValueError(f"{directory} should hold one TFDS dataset, found {names}; name the directory of one version")
    try:
        return tfds.builder_from_directory(found[0])
    except Exception as error:  # TFDS raises what its JSON and proto parsers raise
        raise ValueError(f"{found[0]} is no readable TFDS dataset: {_line(error)}") from error


def _open(directory: Path, split: str) -> tuple[int, Callable[[int], dict[str, Any]], Any]:
    """How many examples a split has, how to read each by its index, and the dataset's features."""
    import tensorflow_datasets as tfds

    builder = _builder(directory)
    if split.split("[")[0] not in builder.info.splits:
        raise ValueError(f"{directory} has no split {split!r}; it has {', '.join(builder.info.splits) or 'none'}")
    if not builder.info.splits[split.split("[")[0]].num_examples:
        raise ValueError(f"the split {split!r} of {directory} has no examples")
    stored = builder.info.file_format
    if stored is None or stored.value != "array_record":
        kind = "an unknown format" if stored is None else stored.value
        raise ValueError(f"{directory} is stored as {kind}; prepare it with file_format='array_record'")
    try:
        source = builder.as_data_source(split=split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
        len(source)
    except Exception as error:  # a missing or damaged file surfaces as one of several types of ArrayRecord
        raise ValueError(f"{directory}: the records of split {split!r} cannot be read: {_line(error)}") from error
    features = builder.info.features
    encoded = _encoded(features)

    def example(i: int) -> dict[str, Any]:
        try:
            return _value(features, encoded.deserialize_example_np(source[i]))
        except Exception as error:  # of ArrayRecord, of the protocol buffer's parser, of UTF-8
            raise ValueError(f"record {i} of {directory} cannot be read: {_line(error)}") from error

    return len(source), example, features


def _feature(kind: Any) -> Any:
    import tensorflow_datasets as tfds

    if isinstance(kind, str):
        image = functools.partial(tfds.features.Image, shape=(None, None, 3), encoding_format="png")
        return {"text": tfds.features.Text, "image": image}[kind]()
    fields = {
        name: _feature(k) if isinstance(k, str) else tfds.features.Sequence(_feature(k)) for name, k in kind.items()
    }
    return tfds.features.FeaturesDict(fields)


def _encoded(feature: Any) -> Any:
    """The feature with every image in it read as bytes: both are stored as one string."""
    from tensorflow_datasets import features as f

    if type(feature) is f.FeaturesDict:
        return f.FeaturesDict({name: _encoded(feature[name]) for name in feature})
    if type(feature) is f.Sequence:
        return f.Sequence(_encoded(feature.feature))
    return f.Text() if type(feature) is f.Image else feature


def _plan(directory: Path, features: Any) -> Callable[[dict[str, Any]], Document]:
    """How an example of these features becomes a document, as `read` says; ValueError if it has nothing to read."""
    from tensorflow_datasets import features as f

    def kinds(feature: Any, kind: type) -> list[str]:
        return [name for name in sorted(feature) if type(feature[name]) is kind]

    entries = {n: features[n].feature for n in kinds(features, f.Sequence)}
    in_dicts = {n: entry for n, entry in entries.items() if type(entry) is f.FeaturesDict}
    illustrated = [n for n, entry in in_dicts.items() if kinds(entry, f.Image)]
    images = kinds(features, f.Image)
    asked = "question" in kinds(features, f.Text)

    texts: dict[str, tuple[str | int, ...]] = {}  # where in an example they stand
    for name in kinds(features, f.Text) + kinds(features, f.ClassLabel):
        texts[name] = (name,)
    for name, entry in entries.items():
        if type(entry) is f.Text:
            texts[name] = (name, 0)
        elif name in in_dicts and kinds(entry, f.Text):
            texts[name] = (name, _first(kinds(entry, f.Text)), 0)
    if asked:
        del texts["question"]
    text = texts[_first(list(texts), ("answer",) if asked else ())] if texts else None

    if illustrated:
        steps = illustrated[0]
        image, words = kinds(in_dicts[steps], f.Image)[0], _first(kinds(in_dicts[steps], f.Text) or [""])

        def parts(example: dict[str, Any]) -> list[str | bytes]:
            pictures = example[steps][image]
            runs = example[steps].get(words, [""] * len(pictures))
            ending = example.get("ending", "")
            return [*(part for step in zip(runs, pictures, strict=True) for part in step), ending]
    elif images or text:

        def parts(example: dict[str, Any]) -> list[str | bytes]:
            return [_at(example, text) if text else "", *(example[name] for name in images[:1])]
    else:
        raise ValueError(f"{directory} has neither a text nor an image feature; it has {', '.join(sorted(features))}")

    def to_document(example: dict[str, Any]) -> Document:
        question = example["question"].strip() if asked else ""
        if asked and not question:
            raise ValueError("the question is empty")
        return Document(merged(parts(example)), question)

    return to_document


def _at(value: Any, path: tuple[str | int, ...]) -> Any:
    """The value at a path of keys and indices, "" where a list is empty."""
    for key in path:
        if isinstance(key, int) and not len(value):
            return ""
        value = value[key]
    return value


def _first(names: list[str], preferred: tuple[str, ...] = ()) -> str:
    return min(names, key=((*preferred, *TEXT_NAMES, *names)).index)


def _value(feature: Any, value: Any) -> Any:
    """A parsed value as plain Python: a text as str, a class label as its name, an image as bytes, others as they are.

    A sequence of dictionaries is a dictionary of lists, as TFDS has it.
    """
    from tensorflow_datasets import features as f

    if type(feature) is f.FeaturesDict:
        return {name: _value(feature[name], value[name]) for name in feature if name in value}
    if type(feature) is f.Sequence:
        inner = feature.feature
        if type(inner) is f.FeaturesDict:
            return {name: [_value(inner[name], v) for v in value[name]] for name in inner if name in value}
        return [_value(inner, v) for v in value]
    if isinstance(value, bytes) and type(feature) is not f.Image:
        return value.decode()
    if type(feature) is f.ClassLabel:
        return feature.int2str(int(value))
    return value


def _line(error: Exception) -> str:
    return f"{type(error).__name__} {str(error).strip()}".splitlines()[0][:200]
