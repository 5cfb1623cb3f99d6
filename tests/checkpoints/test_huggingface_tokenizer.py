import json

import pytest

from gelato_checkpoints.convert import open_source


def test_special_ids_come_from_three_files(foreign, tmp_path):
    folder = foreign("llama").write(tmp_path / "hf")
    tokenizer = open_source(folder).tokenizer
    assert tokenizer.eos_ids == (259, 260)  # generation_config.json and tokenizer_config.json
    assert tokenizer.bos_id == 259
    (folder / "generation_config.json").unlink()
    (folder / "chat_template.jinja").write_text("from the file")
    tokenizer = open_source(folder).tokenizer
    assert tokenizer.eos_ids == (260,)  # config.json
    assert tokenizer.chat_template == "from the file"


@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.parametrize(("value", "why"), [
    ("260", "eos_token_id = '260' must be a token id, or a list of them"),
    ([[259, 260]], "eos_token_id = [[259, 260]] must be a token id"),
    ([259, "260"], "eos_token_id = [259, '260'] must be a token id"),
    (True, "eos_token_id = True must be a token id"),
    (260.0, "eos_token_id = 260.0 must be a token id"),
    (272, "eos_token_id = 272 must lie within the vocabulary's 0..271"),
    ([260, -1], "eos_token_id = [260, -1] must lie within the vocabulary's 0..271"),
])  # fmt: skip
def test_refuses_ids_that_end_nothing(file, value, why, foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / "generation_config.json").unlink()
    fields = json.loads((folder / "config.json").read_text()) if file == "config.json" else {}
    (folder / file).write_text(json.dumps({**fields, "eos_token_id": value}))
    message = refused(folder)
    assert f"{file}: field {why}" in message


@pytest.mark.parametrize(("value", "ids"), [(259, (259, 260)), ([261, 259], (259, 260, 261)), (None, (260,))])
def test_ids_that_end_an_answer(value, ids, foreign, tmp_path):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": value}))
    tokenizer = open_source(folder).tokenizer
    assert tokenizer.eos_ids == ids
    assert tokenizer.eos_id == 260  # tokenizer_config.json: what a template calls eos_token


@pytest.mark.parametrize(("settings", "why"), [
    ({"eos_token": ["<|im_end|>"]}, "eos_token = ['<|im_end|>'] must be a string"),
    ({"bos_token": {"content": 3}}, "bos_token's content = 3 must be a string"),
    ({"chat_template": 3}, "chat_template = 3 must be a string"),
    ({"chat_template": [{"name": "default"}]}, "chat_template must be a string, or a list"),
])  # fmt: skip
def test_refuses_settings_of_another_type(settings, why, foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    message = refused(folder)
    assert "tokenizer_config.json: " in message
    assert why in message


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_refuses_text_of_another_encoding(name, foreign, tmp_path, refused):
    folder = foreign("llama").write(tmp_path / "hf")
    (folder / name).write_bytes('{"a": "é"}'.encode("latin-1"))
    assert f"{name}: not readable as text" in refused(folder)
