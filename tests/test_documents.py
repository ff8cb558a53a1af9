"""Documents: runs of text and pictures, and nothing that a store could not hold."""

import pytest

from jam_jax.data.documents import Document, merged


@pytest.mark.parametrize("parts", [(), ("",), (b"",), (3,)])
def test_a_document_is_made_of_texts_and_pictures(parts):
    with pytest.raises(ValueError, match=r"a document needs|a part of a document"):
        Document(parts)


def test_a_document_knows_its_texts_and_pictures():
    document = Document(("a", b"1", b"2", "b"), "why?")
    assert document.texts == ("a", "b") and document.pictures == (b"1", b"2")


@pytest.mark.parametrize(("text", "says"), [("a\0b", "NUL"), ("a\ud83db", "half a surrogate pair at character 1")])
def test_a_text_is_what_a_text_file_can_hold(text, says):
    for parts, question in [((text,), ""), (("fine",), text)]:
        with pytest.raises(ValueError, match=says):
            Document(parts, question)
    assert Document(("\x01 <break> \N{GRINNING FACE} \x7f",)).texts == ("\x01 <break> \N{GRINNING FACE} \x7f",)


def test_merged_texts_are_one_run():
    assert merged([" a ", "", "b\n", b"1", b"2", "  ", "c", b""]) == ("a\nb", b"1", b"2", "c")
    assert merged(["", " "]) == ()
