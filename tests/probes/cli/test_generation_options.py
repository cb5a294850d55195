"""--generation and --chat-template-kwargs: judged before a model is loaded, used, and said in what is printed."""

import json

import pytest

from probes.cli.main import main


@pytest.fixture
def prompt(tmp_path):
    path = tmp_path / "p.txt"
    path.write_text("the quick brown fox jumps over the lazy dog, and the dog sleeps on.")
    return str(path)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--max-new-tokens", "3", "--generation", "num_beams=3"], "num_beams cannot be honoured"),
        (["--max-new-tokens", "3", "--generation", "repetition_penalti=2"], "did you mean 'repetition_penalty'"),
        (["--generation", "repetition_penalty=2"], "give --max-new-tokens as well"),
    ],
)
def test_a_wrong_option_is_one_line_before_anything_is_loaded(prompt, tmp_path, capsys, words, said):
    code = main(["record", "no/such-model", "--prompts", prompt, "--out", str(tmp_path / "t.duckdb"), *words])
    error = capsys.readouterr().err
    assert code == 2
    assert said in error
    assert error.count("\n") == 1
    assert not (tmp_path / "t.duckdb").exists()


def test_what_is_asked_for_changes_the_text_and_is_said(olmoe_folder, prompt, tmp_path, capsys):
    plain = ["steer", str(olmoe_folder), "--prompt", "the dog", "--intervention", "ban:layer=1,expert=0", "--json"]
    plain += ["--max-new-tokens", "4"]
    assert main(plain) == 0
    first = json.loads(capsys.readouterr().out)
    banned = first["baseline"]["ids"][0]
    assert main([*plain, "--generation", f"suppress_tokens=[{banned}]"]) == 0
    second = json.loads(capsys.readouterr().out)
    assert first["generation"]["options"] == {}
    assert second["generation"]["options"] == {"suppress_tokens": [banned]}
    assert banned not in second["baseline"]["ids"]


def test_template_variables_reach_a_steered_chat(olmoe, tokenizer, tmp_path, capsys):
    folder = tmp_path / "model"
    olmoe.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "chat_template.jinja").write_text("{{ messages[0].content }}{% if loud %}!!{% endif %}")
    words = ["steer", str(folder), "--prompt", "hi", "--intervention", "ban:layer=1,expert=0", "--max-new-tokens", "1"]
    assert main([*words, "--chat", "--chat-template-kwargs", '{"loud": true}', "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["prompt"] == "hi!!"
    for wrong, said in (
        (["--chat-template-kwargs", "{}"], "give --chat as well"),
        (["--chat", "--chat-template-kwargs", "{"], "is not JSON"),
        (["--chat", "--chat-template-kwargs", '{"tokenize": 1}'], "cannot set 'tokenize'"),
    ):
        assert main([*words, *wrong]) == 2
        assert said in capsys.readouterr().err
