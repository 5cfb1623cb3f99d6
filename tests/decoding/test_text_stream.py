"""Text as its ids arrive: whole characters, and an end at the stop string that is complete first."""

import itertools
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from gelato_checkpoints import load_checkpoint, resolve
from gelato_jax.decoding.text import TextStream, finish_reason, stop_strings
from gelato_jax.errors import GelatoError

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
CREAM, FAMILY = "\U0001f366", "\U0001f469\u200d\U0001f469\u200d\U0001f467"
GOLDEN = Path(__file__).parents[1] / "golden" / "llama" / "tokenizer.json"


class Library:
    """A tokenizer of `tokenizers`, as decoding knows one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.library = tokenizer

    def encode(self, text: str) -> list[int]:
        return self.library.encode(text).ids

    def decode(self, ids) -> str:
        return self.library.decode(list(ids), skip_special_tokens=True)


class Bytes:
    """A tokenizer whose ids are bytes."""

    def decode(self, ids):
        return bytes(ids).decode("utf-8", errors="replace")


def trained() -> Library:
    """A small byte-level BPE, some of whose tokens end inside a character."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, initial_alphabet=alphabet, special_tokens=["<end>"])
    tokenizer.train_from_iterator([f"ice {CREAM}\U0001f369 cream {FAMILY} caf\u00e9 \u6f22\u5b57"] * 9, trainer)
    return Library(tokenizer)


def byte_fallback() -> Library:
    """What SentencePiece makes of a text: words that begin with a space, and bytes for what is in no word."""
    words = ["\u2581", "a", "\u2581a", "b", "\u2581b"]
    vocabulary = {"<unk>": 0, "</s>": 1} | {f"<0x{byte:02X}>": byte + 2 for byte in range(256)}
    vocabulary |= {word: len(vocabulary) + index for index, word in enumerate(words)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], byte_fallback=True, unk_token="<unk>"))
    tokenizer.add_special_tokens(["</s>"])
    steps = (decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(list(steps))
    return Library(tokenizer)


# 256 bytes and 16 special tokens: every broken UTF-8 sequence can be written with it.
GOLDEN_BYTES = Library(Tokenizer.from_file(str(GOLDEN)))
TRAINED, FALLBACK = trained(), byte_fallback()


@pytest.fixture(scope="session")
def smollm2():
    """The default model's tokenizer, fetched when it is not in the cache."""
    return Library(load_checkpoint(resolve("smollm2-135m")).tokenizer._tokenizer)


def pieces(ids, cuts: list[int]) -> list[list[int]]:
    """Ids, cut anywhere; some pieces are empty."""
    edges = [0, *sorted(cut % (len(ids) + 1) for cut in cuts), len(ids)]
    return [list(ids[a:b]) for a, b in itertools.pairwise(edges)]


def fed(tokenizer, chunks, stops=()) -> tuple[TextStream, list[str]]:
    """A stream that was fed chunks and finished, and what it showed."""
    stream = TextStream(tokenizer, stops)
    shown = [stream.feed(chunk) for chunk in chunks]
    return stream, [*shown, stream.finish()]


def ended(text: str, stops) -> tuple[str, int | None]:
    """The rule in plain Python: the text up to its end, and how many of its characters were read (None: all)."""
    for read in range(1, len(text) + 1):
        begins = [read - len(stop) for stop in stops if text[:read].endswith(stop)]
        if begins:
            return text[: min(begins)], read
    return text, None


CUTS = st.lists(st.integers(0, 200), max_size=8)


# Stop strings


@given(text=st.text("abc", max_size=24), cuts=CUTS, stops=st.lists(st.text("abc", min_size=1, max_size=5), max_size=4))
def test_the_stop_that_is_complete_first_ends_the_text_wherever_chunks_end(text, cuts, stops):
    stream, shown = fed(Bytes(), pieces(text.encode(), cuts), stops)
    expected, read = ended(text, stops)
    assert "".join(shown) == stream.text == expected
    assert stream.stopped == (read is not None)
    assert bytes(stream.ids).decode() == text[:read]  # up to the id that completed the stop


@given(text=st.text(f"ab\u00e9{CREAM}", max_size=12), cuts=CUTS, stops=st.lists(st.text(f"a\u00e9{CREAM}", min_size=1)))
def test_stops_of_several_bytes_too(text, cuts, stops):
    stream, shown = fed(TRAINED, pieces(TRAINED.encode(text), cuts), stops)
    assert "".join(shown) == stream.text == ended(text, stops)[0]
    assert TRAINED.decode(stream.ids).startswith(stream.text)


@pytest.mark.parametrize("cuts", [[], range(1, 8), [3]], ids=["whole", "by letters", "in two"])
def test_a_short_stop_inside_a_long_one_is_complete_first(cuts):
    stream, shown = fed(Bytes(), pieces(b"xabcdef", list(cuts)), ("abcdef", "cd"))
    assert "".join(shown) == stream.text == "xab"
    assert bytes(stream.ids) == b"xabcd"


def test_of_two_complete_at_once_the_longer_counts():
    assert fed(Bytes(), [b"xabc"], ("c", "abc", "bc"))[0].text == "x"


@given(text=st.text("ab", max_size=24), cuts=CUTS, stop=st.text("ab", min_size=1, max_size=5))
def test_nothing_is_shown_that_is_taken_back(text, cuts, stop):
    stream, shown = TextStream(Bytes(), stop), ""
    for chunk in pieces(text.encode(), cuts):
        shown += stream.feed(chunk)
        assert shown == stream.text
        assert stop not in shown
    assert (shown + stream.finish()).startswith(shown)


def test_text_is_shown_as_soon_as_it_cannot_be_a_stop():
    stream = TextStream(Bytes(), ["\n\nQ:"])
    assert stream.feed(b"one\n") == "one"
    assert stream.feed(b"two\n\nQ") == "\ntwo"
    assert stream.feed(b" is a letter") == "\n\nQ is a letter"


def test_nothing_is_read_behind_a_stop():
    stream = TextStream(Bytes(), "b")
    assert stream.feed(b"abc") == "a"
    assert stream.feed(b"d") == stream.finish() == ""
    assert (stream.text, bytes(stream.ids)) == ("a", b"ab")


def test_a_stop_may_be_what_the_end_reveals():
    stream = TextStream(Bytes(), REPLACEMENT)
    assert stream.feed([*b"a", CREAM.encode()[0]]) == "a"
    assert not stream.stopped
    assert stream.finish() == ""
    assert stream.stopped


@pytest.mark.parametrize("stops", ["", ("a", "")])
def test_an_empty_stop_is_refused(stops):
    with pytest.raises(GelatoError, match="stop string is empty"):
        TextStream(Bytes(), stops)


def test_a_single_stop_needs_no_list():
    assert stop_strings("ab") == stop_strings(["ab"]) == ("ab",)
    assert stop_strings(()) == ()


@pytest.mark.parametrize(
    ("ids", "stops", "reason"),
    [
        (b"abc", (), "length"),
        (b"ab\x00", (), "eos"),
        (b"abc", "c", "stop"),
        (b"ab\x00", "b", "stop"),  # the id that would end it stands behind the stop, in one run of accepted tokens
        (b"ab\x00c", (), "length"),
        (b"", (), "length"),
    ],
)
def test_the_reason_of_an_end(ids, stops, reason):
    assert finish_reason(fed(Bytes(), [ids], stops)[0], (0,)) == reason


# Characters


@given(text=st.text(st.characters(exclude_characters=REPLACEMENT, exclude_categories=["Cs"]), max_size=30), cuts=CUTS)
@pytest.mark.parametrize("tokenizer", [GOLDEN_BYTES, TRAINED], ids=["bytes", "trained"])
def test_characters_come_whole_and_none_is_lost(tokenizer, text, cuts):
    stream, shown = fed(tokenizer, pieces(tokenizer.encode(text), cuts))
    assert not any(REPLACEMENT in piece for piece in shown)
    assert "".join(shown) == stream.text == text
    assert shown[-1] == ""


@given(ids=st.lists(st.integers(0, 271), max_size=40), cuts=CUTS)
def test_pieces_joined_are_the_decoded_text_for_any_ids(ids, cuts):
    stream, shown = fed(GOLDEN_BYTES, pieces(ids, cuts))
    assert "".join(shown) == stream.text == GOLDEN_BYTES.decode(ids)
    assert stream.ids == ids


@given(ids=st.lists(st.integers(0, 271), max_size=40))
def test_pieces_are_those_of_the_library(ids):
    """`DecodeStream` has no end: what it still holds there is ours to give."""
    theirs, ours = decoders.DecodeStream(skip_special_tokens=True), TextStream(GOLDEN_BYTES)
    for token in ids:
        assert ours.feed([token]) == (theirs.step(GOLDEN_BYTES.library, token) or "")


def test_a_character_appears_with_its_last_byte():
    *first, last = GOLDEN_BYTES.encode(CREAM)
    stream = TextStream(GOLDEN_BYTES)
    assert [stream.feed([token]) for token in first] == [""] * 3
    assert stream.feed([last]) == CREAM
    assert stream.feed(first) == ""
    assert stream.finish() == REPLACEMENT
    assert stream.finish() == ""


@pytest.mark.parametrize("text", [f"ice {CREAM}\U0001f369!", FAMILY, f"{FAMILY}\u6f22\u5b57 {CREAM}"])
def test_emoji_of_the_real_tokenizer_come_whole(smollm2, text):
    ids = smollm2.encode(text)
    theirs = decoders.DecodeStream(skip_special_tokens=True)
    stream, shown = fed(smollm2, [[token] for token in ids])
    assert len(ids) > len(text.encode()) / 4
    assert "".join(shown) == stream.text == text
    assert not any(REPLACEMENT in piece for piece in shown)
    assert shown[:-1] == [theirs.step(smollm2.library, token) or "" for token in ids]


def test_special_tokens_are_left_out(smollm2):
    hello, end = smollm2.encode("Hello"), smollm2.library.token_to_id("<|im_end|>")
    stream, shown = fed(smollm2, [hello, [end], hello])
    assert shown == ["Hello", "", "Hello", ""]
    assert stream.ids == [*hello, end, *hello]


def ids_of(*tokens: str) -> list[int]:
    return [FALLBACK.library.token_to_id(token) for token in tokens]


def test_the_space_before_the_first_word_is_no_text_and_those_between_words_are():
    _, shown = fed(FALLBACK, [[token] for token in ids_of("\u2581a", "b", "\u2581b", "</s>")])
    assert shown == ["a", "b", " b", "", ""]


def test_bytes_that_are_no_text_do_not_end_the_stream():
    """A model may spell them; the library's stream raises here, for its decoder takes back what it has shown."""
    letter = [f"<0x{byte:02X}>" for byte in "\u00e9".encode()]
    _, shown = fed(FALLBACK, [[token] for token in ids_of("\u2581a", *letter, "<0xFF>", "\u2581b")])
    assert shown[:4] == ["a", "", "\u00e9", ""]
    assert shown[4].endswith(" b")
