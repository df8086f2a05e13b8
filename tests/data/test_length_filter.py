"""The length filter, with a tokenizer of one token per word, so that every length can be counted by hand."""

import json

import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from helpers.corpus import ROWS, read_rows, row, run, turns, write_corpus
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from redi.data.lengths import length_rules
from redi.data.lengths.length_rules import load_counting_tokenizer, turn_lengths
from redi.text.training_rows import prepare_rows

# A default system block of 5 words, and 3 words around each turn's text.
TEMPLATE = (
    "{% if messages[0]['role'] != 'system' %}<s> system be brief </s> {% endif %}"
    "{% for m in messages %}<s> {{ m['role'] }} {{ m['content'] }} </s> {% endfor %}"
    "{% if add_generation_prompt %}<s> assistant {% endif %}"
)
ALTERNATING = (
    "{% if messages[0]['role'] != 'user' %}{{ raise_exception('Roles must alternate') }}{% endif %}" + TEMPLATE
)
FORGETFUL = "{% for m in messages %}{{ m['content'] }} {% endfor %}{% if add_generation_prompt %}<s> {% endif %}"
USER_ONLY = "{% for m in messages if m['role'] == 'user' %}{{ m['content'] }}{% endfor %}"


@pytest.fixture(scope="module")
def save_tokenizer(tmp_path_factory):
    def save(template, eos="<eos>"):
        words = Tokenizer(models.WordLevel({"<unk>": 0, "<eos>": 1, "word": 2}, unk_token="<unk>"))
        words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
        folder = tmp_path_factory.mktemp("tokenizer")
        tokenizer = PreTrainedTokenizerFast(
            tokenizer_object=words, unk_token="<unk>", eos_token=eos, chat_template=template
        )
        tokenizer.save_pretrained(folder)
        return folder

    return save


@pytest.fixture(scope="module")
def tokenizer(save_tokenizer):
    return save_tokenizer(TEMPLATE)


def pair_row(problem, chosen, rejected):
    return row(problem, [True, False], [True, False], generations=[chosen, rejected])


@pytest.fixture
def corpus(tmp_path):
    rows = [
        pair_row("a b c", "a b c d", "a b"),  # lengths 3 + 8 + 1 = 12, 4 + 8 + 1 = 13, 2 + 8 + 1 = 11
        pair_row("a b c", "a b", "a b c d"),  # 12, 11, 13
        pair_row("a b c d", "a", "b"),  # 13, 10, 10
        # The same text twice: the prompt is the conversation, 5 + (1 + 3) + (5 + 3) = 17, and 1 for both responses.
        pair_row("a", "a b c d e", "a b c d e"),
    ]
    return write_corpus(tmp_path / "raw.parquet", rows)


def build(corpus, *arguments):
    output = corpus.parent / "-".join(["out", *(str(argument) for argument in arguments if "/" not in str(argument))])
    run("build_pairs", "--input", corpus, "--output", output, *arguments)
    made = {
        pair["original_index"]: (pair["prompt_len"], pair["chosen_len"], pair["rejected_len"])
        for pair in read_rows(output)
    }
    return made, json.loads((output / "manifest.json").read_text())


def test_lengths(corpus, tokenizer):
    made, manifest = build(corpus, "--tokenizer", tokenizer)
    assert made == {0: (12, 13, 11), 1: (12, 11, 13), 2: (13, 10, 10), 3: (17, 1, 1)}
    assert manifest["config"]["max_prompt_tokens"] == 800
    assert manifest["config"]["max_response_tokens"] == 19000
    assert manifest["inputs"]["tokenizer"]["path"] == str(tokenizer)
    names = pq.read_schema(next(corpus.parent.glob("out*/train-*.parquet"))).names
    assert names[-3:] == ["prompt_len", "chosen_len", "rejected_len"]


def test_limits_are_inclusive(corpus, tokenizer):
    made, manifest = build(corpus, "--tokenizer", tokenizer, "--max-prompt-tokens", 12, "--max-response-tokens", 13)
    assert sorted(made) == [0, 1]
    assert manifest["counts"]["dropped"]["prompt too long"] == 1
    assert manifest["counts"]["dropped"]["same responses, too long"] == 1
    assert manifest["counts"]["dropped"]["response too long"] == 0
    made, manifest = build(corpus, "--tokenizer", tokenizer, "--max-prompt-tokens", 13, "--max-response-tokens", 12)
    assert sorted(made) == [2]  # rows 0 and 1 have one response of 13 each
    assert manifest["counts"]["dropped"]["prompt too long"] == 0
    assert manifest["counts"]["dropped"]["same responses, too long"] == 1
    assert manifest["counts"]["dropped"]["response too long"] == 2
    assert manifest["counts"]["input_rows"] == 4 == manifest["counts"]["rows"] + 3


def test_a_pair_is_counted_once_and_by_its_prompt(tmp_path, tokenizer):
    rows = [pair_row("a b c", "a b c d", "a"), pair_row("a", "a", "b")]  # lengths 12, 13, 10 and 10, 10, 10
    corpus = write_corpus(tmp_path / "raw.parquet", rows)
    made, manifest = build(corpus, "--tokenizer", tokenizer, "--max-prompt-tokens", 11, "--max-response-tokens", 12)
    assert sorted(made) == [1]
    assert manifest["counts"]["dropped"]["prompt too long"] == 1
    assert manifest["counts"]["dropped"]["response too long"] == 0


@pytest.mark.parametrize(("limit", "kept"), [(17, [3]), (16, [])])
def test_the_limit_on_the_prompt_holds_for_the_conversation_of_the_same_responses(tmp_path, tokenizer, limit, kept):
    rows = [pair_row("a", "a", "b")] * 3 + [pair_row("a", "a b c d e", "a b c d e")]
    made, _ = build(
        write_corpus(tmp_path / "raw.parquet", rows), "--tokenizer", tokenizer, "--max-prompt-tokens", limit
    )
    assert sorted(made) == [0, 1, 2, *kept]


def test_lengths_of_all_kinds_of_rows(tmp_path, tokenizer):
    made, _ = build(write_corpus(tmp_path / "raw.parquet"), "--tokenizer", tokenizer)
    for index, (prompt_len, chosen_len, rejected_len) in made.items():
        num_words = len(ROWS[index]["problem"].split())
        if index == 22:  # the two responses are one text, of one word
            assert (prompt_len, chosen_len, rejected_len) == (5 + num_words + 3 + 1 + 3, 1, 1)
            continue
        assert prompt_len == num_words + 9
        if index != 26:  # "<problem> trace <i>"; row 26 names its traces otherwise
            assert (chosen_len, rejected_len) == (len(ROWS[index]["generations"][0].split()) + 9,) * 2


def test_batches_leave_no_trace(monkeypatch, tokenizer):
    loaded = load_counting_tokenizer(str(tokenizer))
    texts = ["a " * count for count in (3, 0, 7, 1, 4)]
    for limit in (1, 5, 1000):
        monkeypatch.setattr(length_rules, "BATCH_CHARACTERS", limit)
        assert turn_lengths(loaded, "assistant", texts).tolist() == [12, 9, 16, 10, 13]
    assert turn_lengths(loaded, "assistant", []).tolist() == []


def test_equals_the_tokens_of_the_template(tokenizer):
    loaded = load_counting_tokenizer(str(tokenizer))
    for turn in turns("what is it", "it is this"):
        ids = loaded.apply_chat_template([turn], return_dict=False)
        assert turn_lengths(loaded, turn["role"], [turn["content"]]).tolist() == [len(ids) + 1]


def test_exact_lengths(corpus, tokenizer):
    """The system block of 5 words, 3 around the problem, 2 in the header of the answer; then 1 behind it, and eos."""
    made, manifest = build(corpus, "--tokenizer", tokenizer, "--length-rule", "exact")
    assert made == {0: (13, 6, 4), 1: (13, 4, 6), 2: (14, 3, 3), 3: (11, 7, 7)}
    assert manifest["config"]["length_rule"] == "exact"
    limits = ["--max-prompt-tokens", 13, "--max-response-tokens", 6]
    made, manifest = build(corpus, "--tokenizer", tokenizer, "--length-rule", "exact", *limits)
    assert sorted(made) == [0, 1]
    assert manifest["counts"]["dropped"]["prompt too long"] == 1
    assert manifest["counts"]["dropped"]["response too long"] == 1


def test_the_rule_is_recorded(corpus, tokenizer):
    _, manifest = build(corpus, "--tokenizer", tokenizer)
    assert manifest["config"]["length_rule"] == "paper"


def test_paper_lengths_of_real_traces(tmp_path, model_path, trained_tokenizer, gsm8k):
    run("build_pairs", "--input", gsm8k, "--output", tmp_path / "pairs", "--tokenizer", model_path)
    pairs = read_rows(tmp_path / "pairs")
    assert len(pairs) == 731
    for pair in pairs[::7]:  # the loop is slow
        turns_of = {"prompt": pair["chosen"][0], "chosen": pair["chosen"][1], "rejected": pair["rejected"][1]}
        for name, turn in turns_of.items():
            ids = trained_tokenizer.apply_chat_template([turn], return_dict=False)
            assert pair[f"{name}_len"] == len(ids) + 1


@pytest.mark.parametrize("rows", ["of all kinds", "of real traces"])
def test_exact_lengths_are_those_of_training(tmp_path, model_path, trained_tokenizer, request, rows):
    corpus = write_corpus(tmp_path / "raw.parquet")
    if rows == "of real traces":
        corpus = request.getfixturevalue("gsm8k")
    output = tmp_path / "pairs"
    run("build_pairs", "--input", corpus, "--output", output, "--tokenizer", model_path, "--length-rule", "exact")
    pairs = load_dataset(str(output), split="train", cache_dir=str(tmp_path / "cache"))
    problems, _ = prepare_rows(pairs, ("pairs",), trained_tokenizer, max_length=None)
    lengths = {row["uuid"]: [row[f"{name}_len"] for name in ("prompt", "chosen", "rejected")] for row in pairs}
    trained = {row["name"]: [len(row[f"{name}_ids"]) for name in ("prompt", "chosen", "rejected")] for row in problems}
    assert len(trained) > 5
    assert trained == {name: lengths[name] for name in trained}
    empty = lengths.keys() - trained.keys()  # training drops them
    assert all(0 in lengths[name][1:] for name in empty)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat template"),
        (ALTERNATING, "one assistant turn: the chat template refuses the conversation: Roles must alternate"),
        (USER_ONLY, "one assistant turn is rendered without its text"),
    ],
)
def test_unfit_templates(corpus, save_tokenizer, capsys, template, message):
    with pytest.raises(SystemExit, match="2"):
        build(corpus, "--tokenizer", save_tokenizer(template))
    assert message in capsys.readouterr().err
    assert list(corpus.parent.iterdir()) == [corpus]


@pytest.mark.parametrize(
    ("template", "eos", "message"),
    [
        (TEMPLATE, None, "has no eos token"),
        (FORGETFUL, "<eos>", "does not continue its own generation prompt"),
    ],
)
def test_unfit_for_exact_lengths(corpus, save_tokenizer, capsys, template, eos, message):
    with pytest.raises(SystemExit, match="2"):
        build(corpus, "--length-rule", "exact", "--tokenizer", save_tokenizer(template, eos))
    assert message in capsys.readouterr().err
    assert list(corpus.parent.iterdir()) == [corpus]


def test_missing_tokenizer(corpus, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        build(corpus, "--tokenizer", tmp_path / "nowhere")
    error = capsys.readouterr().err
    assert error.startswith(f"error: --tokenizer {tmp_path / 'nowhere'}")
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("option", "value"), [("--max-prompt-tokens", 100), ("--max-response-tokens", 100), ("--length-rule", "exact")]
)
def test_limits_need_a_tokenizer(corpus, capsys, option, value):
    with pytest.raises(SystemExit, match="2"):
        build(corpus, option, value)
    assert f"{option} needs a tokenizer" in capsys.readouterr().err
