"""prepare_base_model.py on tiny local models: what is changed, what is not, and what is refused."""

import json
from pathlib import Path

import prepare_base_model
import pytest
import torch
from helpers.templates import family, with_bos
from helpers.tiny import CHATML, make_model, make_tokenizer
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, Gemma2Config, GenerationConfig, Qwen2Config

from redi.text.base_model import rope_theta, widen

TINY = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1)


def save_model(folder: Path, config_class: type = Qwen2Config, template: str | None = CHATML, **options) -> str:
    """A model of two layers with a rotary base of 10,000, spelled as before transformers 5."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    tokenizer.save_pretrained(folder)
    config = config_class(**{**TINY, "vocab_size": len(tokenizer), "head_dim": 16, "eos_token_id": 0, **options})
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    raw = json.loads((folder / "config.json").read_text())
    raw["rope_theta"] = raw.pop("rope_parameters")["rope_theta"]
    (folder / "config.json").write_text(json.dumps(raw))
    GenerationConfig(eos_token_id=0, max_new_tokens=2048).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def qwen25_math(tmp_path_factory) -> str:
    """In miniature: 4,096 positions, rotary base 10,000, pad = eos."""
    return save_model(tmp_path_factory.mktemp("base"), max_position_embeddings=4096)


def refused(capsys, *argv: str) -> str:
    with pytest.raises(SystemExit) as caught:
        prepare_base_model.main(list(argv))
    assert caught.value.code == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def test_qwen25_math_gets_its_long_positions_and_computes_with_them(qwen25_math, tmp_path, capsys):
    out = tmp_path / "out"
    prepare_base_model.main(["--model", qwen25_math, "--output", str(out)])
    assert "rope_theta               10000.0 -> 300000.0" in capsys.readouterr().out
    config = AutoConfig.from_pretrained(out)
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (32768, 300000.0)
    model = AutoModelForCausalLM.from_pretrained(out)
    # head_dim 16: the frequencies are 300000 ** (-2i / 16)
    expected = torch.tensor([300000 ** (-i / 8) for i in range(8)])
    assert torch.allclose(model.model.rotary_emb.inv_freq, expected, rtol=1e-5)
    source = AutoModelForCausalLM.from_pretrained(qwen25_math).state_dict()
    assert all(torch.equal(source[name], weights) for name, weights in model.state_dict().items())


def test_generation_ends_at_either_end_and_has_no_limit(qwen25_math, tmp_path):
    prepare_base_model.main(["--model", qwen25_math, "--output", str(tmp_path / "out")])
    generation = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    ends = [tokenizer.convert_tokens_to_ids(token) for token in ("<|endoftext|>", "<|im_end|>")]
    assert generation["eos_token_id"] == sorted(ends)
    assert not {"max_new_tokens", "max_length"} & generation.keys()
    assert tokenizer.eos_token == "<|endoftext|>"  # the one that training appends


def test_pad_is_a_spare_token_where_there_is_one(qwen25_math, tmp_path, capsys):
    prepare_base_model.main(["--model", qwen25_math, "--output", str(tmp_path / "none")])
    assert AutoTokenizer.from_pretrained(tmp_path / "none").pad_token == "<|endoftext|>"
    assert "so pad is eos" in capsys.readouterr().out

    source = tmp_path / "source"
    save_model(source, vocab_size=310)
    tokenizer = AutoTokenizer.from_pretrained(source)
    tokenizer.add_tokens(["<|fim_pad|>"])
    tokenizer.save_pretrained(source)
    prepare_base_model.main(["--model", str(source), "--output", str(tmp_path / "spare")])
    prepared = AutoTokenizer.from_pretrained(tmp_path / "spare")
    assert (prepared.pad_token, prepared.eos_token) == ("<|fim_pad|>", "<|endoftext|>")
    assert AutoConfig.from_pretrained(tmp_path / "spare").pad_token_id == prepared.pad_token_id


def test_other_families_keep_their_positions_unless_told(tmp_path):
    source = save_model(tmp_path / "gemma", Gemma2Config, max_position_embeddings=8192)
    prepare_base_model.main(["--model", source, "--output", str(tmp_path / "kept")])
    config = AutoConfig.from_pretrained(tmp_path / "kept")
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (8192, 10000.0)
    options = ["--max-position-embeddings", "32768", "--rope-theta", "100000"]
    prepare_base_model.main(["--model", source, "--output", str(tmp_path / "told"), *options])
    config = AutoConfig.from_pretrained(tmp_path / "told")
    assert (config.max_position_embeddings, config.rope_parameters["rope_theta"]) == (32768, 100000.0)


def test_both_spellings_of_the_rotary_base_are_set():
    """transformers 5 reads `rope_parameters` where a file has both, so a base set in the other alone does nothing."""
    config = {"model_type": "qwen2", "max_position_embeddings": 4096, "rope_theta": 10000}
    config["rope_parameters"] = {"rope_type": "default", "rope_theta": 10000}
    wide = widen(config, None, None)
    assert wide["rope_theta"] == wide["rope_parameters"]["rope_theta"] == rope_theta(wide) == 300000.0
    assert config["rope_parameters"]["rope_theta"] == 10000  # the argument is left alone
    assert widen({"model_type": "qwen2", "max_position_embeddings": 131072, "rope_theta": 1e6}, None, None) == {
        "model_type": "qwen2",
        "max_position_embeddings": 131072,
        "rope_theta": 1e6,
    }


def test_chat_templates_own_by_family_or_given(qwen25_math, tmp_path):
    prepare_base_model.main(["--model", qwen25_math, "--output", str(tmp_path / "own")])
    assert AutoTokenizer.from_pretrained(tmp_path / "own").chat_template == CHATML
    options = ["--chat-template", "chatml"]
    prepare_base_model.main(["--model", qwen25_math, "--output", str(tmp_path / "given"), *options])
    question = [{"role": "user", "content": "Why?"}]
    rendered = AutoTokenizer.from_pretrained(tmp_path / "given").apply_chat_template(question, tokenize=False)
    assert rendered == "<|im_start|>user\nWhy?<|im_end|>\n"
    source = save_model(tmp_path / "bare", template=None, max_position_embeddings=4096)
    prepare_base_model.main(["--model", source, "--output", str(tmp_path / "family")])
    rendered = AutoTokenizer.from_pretrained(tmp_path / "family").apply_chat_template(question, tokenize=False)
    system = "Please reason step by step, and put your final answer within \\boxed{}."
    assert rendered == f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"


@pytest.mark.parametrize(
    "template, message",
    [
        # DeepSeek's own drops the thoughts of earlier turns
        (
            "{% for m in messages %}{{ m['content'].split('</think>')[-1] }}{% endfor %}",
            "does not leave the assistant's text unchanged",
        ),
        ("{% for m in messages %}{{ m['content'] }}{% endfor %}{{ '<think>' }}", "must have one <think>"),
        ("{{ messages | length }}{% for m in messages %}{{ m['content'] }}{% endfor %}", "does not continue its own"),
        ("{{ '<system>' * 2 }}{% for m in messages %}{{ m['content'] }}{% endfor %}", "two system blocks"),
        ("{{ raise_exception('no') }}", "no"),
    ],
)
def test_templates_that_training_could_not_use_are_refused(qwen25_math, tmp_path, capsys, template, message):
    (tmp_path / "bad.jinja").write_text(template)
    options = ["--output", str(tmp_path / "out"), "--chat-template", str(tmp_path / "bad.jinja")]
    assert message in refused(capsys, "--model", qwen25_math, *options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("template", ["chatml", "gemma", None])
def test_a_template_writes_the_bos_with_which_the_tokenizer_begins_a_text(tmp_path, capsys, template):
    tokenizer = with_bos(family(CHATML, "<|im_end|>"))
    make_model(len(tokenizer), architecture="Mistral").save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    options = ["--chat-template", template] if template else []
    argv = ["--model", str(tmp_path / "source"), "--output", str(tmp_path / "out"), *options]
    prepare_base_model.main(argv)
    assert (f"{template or 'own'} after <s>" in capsys.readouterr().out) == (template != "gemma")
    prepared = AutoTokenizer.from_pretrained(tmp_path / "out")
    text = prepared.apply_chat_template([{"role": "user", "content": "Why?"}], tokenize=False)
    assert text.startswith("<s>") and text.count("<s>") == 1


def test_a_second_run_does_nothing_and_other_options_need_overwrite(qwen25_math, tmp_path, capsys):
    argv = ["--model", qwen25_math, "--output", str(tmp_path / "out")]
    prepare_base_model.main(argv)
    before = (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns
    capsys.readouterr()
    prepare_base_model.main(argv)
    assert "already done" in capsys.readouterr().out
    assert (tmp_path / "out" / "model.safetensors").stat().st_mtime_ns == before
    assert "exists; choose another folder" in refused(capsys, *argv, "--rope-theta", "5e5")
    prepare_base_model.main([*argv, "--rope-theta", "5e5", "--overwrite"])
    manifest = json.loads((tmp_path / "out" / "manifest.json").read_text())
    assert manifest["counts"]["rope_theta"] == [10000.0, 500000.0]


@pytest.mark.parametrize(
    "options, message",
    [
        (["--pad-token", "<|nowhere|>"], "--pad-token <|nowhere|> is not in the model's vocabulary"),
        (["--eos-token", "</s>"], "--eos-token </s> is not in the model's vocabulary"),
        (["--revision", "main"], "--revision main is for a Hub id"),
        (["--chat-template", "chatm"], "did you mean 'chatml'?"),
        (["--rope-theta", "-1"], "--rope-theta -1.0 must be positive"),
        (["--rope-thetta", "1"], "did you mean '--rope-theta'?"),
        (["--model", "nowhere"], "--model nowhere is not a folder, and not a Hub id"),
        (["--model", "owner/name"], "--model owner/name is not a folder here, and not in the cache of the Hub"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(qwen25_math, tmp_path, capsys, options, message):
    assert message in refused(capsys, "--model", qwen25_math, "--output", str(tmp_path / "out"), *options)
    assert not (tmp_path / "out").exists()


def test_weights_of_another_configuration_are_refused(qwen25_math, tmp_path, capsys):
    source = save_model(tmp_path / "other", num_hidden_layers=3, max_position_embeddings=4096)
    (Path(source) / "model.safetensors").write_bytes((Path(qwen25_math) / "model.safetensors").read_bytes())
    assert "do not fit its config.json" in refused(capsys, "--model", source, "--output", str(tmp_path / "out"))
    (Path(source) / "model.safetensors").unlink()
    assert "has no *.safetensors" in refused(capsys, "--model", source, "--output", str(tmp_path / "out"))


@pytest.mark.parametrize("name", ["gemma3", "qwen3_5"])
def test_the_language_model_of_a_multimodal_one_is_changed(tmp_path, name):
    """Its `config.json` describes it in `text_config`; the keys outside are not read."""
    tokenizer = make_tokenizer()
    tokenizer.chat_template = CHATML
    text = {**TINY, "vocab_size": len(tokenizer), "head_dim": 16, "max_position_embeddings": 4096}
    text |= {"layer_types": ["full_attention"] * 2} if name == "qwen3_5" else {}
    vision = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2)
    vision |= dict(image_size=28, patch_size=14) if name == "gemma3" else {}
    config = AutoConfig.for_model(name, text_config=text, vision_config=vision)
    config.mm_tokens_per_image = 4
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "source")
    config.save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")
    options = ["--max-position-embeddings", "32768", "--output", str(tmp_path / "out")]
    options += ["--rope-theta", "500000"] if name == "qwen3_5" else []  # Gemma-3 has two bases
    prepare_base_model.main(["--model", str(tmp_path / "source"), *options])
    raw = json.loads((tmp_path / "out" / "config.json").read_text())
    loaded = AutoConfig.from_pretrained(tmp_path / "out").get_text_config()
    assert loaded.max_position_embeddings == 32768 and "max_position_embeddings" not in raw
    prepared = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (loaded.eos_token_id, loaded.pad_token_id) == (prepared.eos_token_id, prepared.pad_token_id)
    if name == "qwen3_5":
        assert loaded.rope_parameters["rope_theta"] == 500000 and "rope_theta" not in raw
