import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gelato_checkpoints import CheckpointError, Tokenizer, TokenizerSpec

GOLDEN = Path(__file__).parents[1] / "golden"
# 256 bytes and 16 special tokens: every broken UTF-8 sequence can be written with it.
BYTES = Tokenizer(TokenizerSpec(tokenizer_json=(GOLDEN / "llama" / "tokenizer.json").read_text()))
QUESTION = "Explain why the sky is blue."


def test_round_trip_on_the_real_tokenizer(smollm2):
    tokenizer = smollm2.tokenizer

    # SmolLM2's vocabulary lacks a few bytes, all of them of control characters and of rare planes.
    @settings(max_examples=50)
    @given(st.text(st.characters(max_codepoint=0xFFFF, exclude_categories=["Cs", "Cc"]), max_size=40))
    def round_trip(text):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids, skip_special=False) == text
        assert all(0 <= i < tokenizer.vocab_size for i in ids)

    round_trip()


def test_the_real_tokenizer_agrees_with_transformers(smollm2):
    golden = np.load(GOLDEN / "smollm2-135m.npz")
    for text, ids in zip(json.loads(str(golden["prompts"])), golden["ids"].tolist(), strict=True):
        assert smollm2.tokenizer.encode(text) == ids


def test_special_ids_of_the_real_tokenizer(smollm2):
    tokenizer = smollm2.tokenizer
    assert (tokenizer.vocab_size, tokenizer.bos_id, tokenizer.pad_id) == (49152, 1, 2)
    assert 2 in tokenizer.eos_ids
    assert [tokenizer.decode([i]) for i in tokenizer.encode("2026")] == ["2", "0", "2", "6"]
    assert tokenizer.decode([2]) == ""


def test_chat_prompts_of_the_real_model(smollm2):
    tokenizer = smollm2.tokenizer
    ids = tokenizer.chat_prompt(QUESTION)
    assert tokenizer.decode(ids, skip_special=False) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
        f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids[0] == 1
    own = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": QUESTION}]
    assert tokenizer.decode(tokenizer.chat_prompt(own), skip_special=False) == (
        f"<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"
    )


def with_template(template: str | None) -> Tokenizer:
    text = BYTES.spec.tokenizer_json
    return Tokenizer(TokenizerSpec(tokenizer_json=text, chat_template=template, bos_id=257, eos_ids=(258,)))


def test_templates_see_the_special_tokens():
    tokenizer = with_template("{{ bos_token }}{{ messages[0].content }}{{ eos_token }}")
    names = {i: token for token, i in tokenizer.vocabulary.items()}
    assert tokenizer.decode(tokenizer.chat_prompt("hi"), skip_special=False) == names[257] + "hi" + names[258]


def test_a_model_without_template_takes_the_text_itself():
    tokenizer = with_template(None)
    assert tokenizer.chat_prompt("hi") == tokenizer.encode("hi")
    with pytest.raises(CheckpointError, match="2 messages, but this model has no chat template"):
        tokenizer.chat_prompt([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])


@pytest.mark.parametrize(("template", "expected"), [
    ("{{ raise_exception('roles must alternate') }}", "chat template: roles must alternate"),
    ("{{ missing() }}", "chat template: 'missing' is undefined"),
    ("{% for %}", "chat template: "),
    ("{{ messages.append(1) }}", "chat template: "),  # the sandbox keeps its inputs
    ("{{ ''.__class__.__mro__[1].__subclasses__() }}", "chat template: "),
])  # fmt: skip
def test_templates_that_fail_or_reach_out_are_refused_in_one_line(template, expected):
    with pytest.raises(CheckpointError) as caught:
        with_template(template).chat_prompt("hi")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_a_fingerprint_is_that_of_the_vocabulary():
    changed = json.loads(BYTES.spec.tokenizer_json)
    changed["model"]["vocab"]["!"], changed["model"]["vocab"]['"'] = 1, 0
    other = Tokenizer(TokenizerSpec(tokenizer_json=json.dumps(changed)))
    assert BYTES.vocabulary["!"] == 0
    assert other.fingerprint != BYTES.fingerprint
    assert with_template("x").fingerprint == BYTES.fingerprint


def test_refuses_what_is_no_tokenizer():
    with pytest.raises(CheckpointError, match=r"tokenizer.json: not a tokenizer"):
        Tokenizer(TokenizerSpec(tokenizer_json="{}"))


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\ufffc"), min_size=1, max_size=30))
def test_a_frame_around_the_ids_of_a_turn_is_the_chat_prompt(text):
    tokenizer = with_template("{{ bos_token }}system: brief {% for m in messages %}<{{ m.content }}>{% endfor %}you:")
    prefix, header = tokenizer.chat_frame()
    assert prefix + tokenizer.encode(text, special=False) + header == tokenizer.chat_prompt(text)


def test_the_frame_of_the_real_model(smollm2):
    tokenizer = smollm2.tokenizer
    prefix, header = tokenizer.chat_frame()
    assert prefix + tokenizer.encode(QUESTION, special=False) + header == tokenizer.chat_prompt(QUESTION)
    assert tokenizer.decode(header, skip_special=False) == "<|im_end|>\n<|im_start|>assistant\n"


def test_the_frame_of_a_model_without_template():
    assert with_template(None).chat_frame() == ([257], [])
    text = BYTES.spec.tokenizer_json
    assert Tokenizer(TokenizerSpec(tokenizer_json=text, eos_ids=(258,))).chat_frame() == ([258], [])
    with pytest.raises(CheckpointError, match="nothing begins a text"):
        BYTES.chat_frame()


@pytest.mark.parametrize(("template", "shown"), [
    ("a{{ messages[0].content }}b{{ messages[0].content }}", "2 times behind 'a'"),
    ("no turn", "0 times behind 'no turn'"),
    ("{{ messages[0].content }} answer:", "1 times behind ''"),
])  # fmt: skip
def test_templates_without_a_frame_are_refused(template, shown):
    with pytest.raises(CheckpointError, match=shown):
        with_template(template).chat_frame()
