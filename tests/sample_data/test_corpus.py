"""The generators: the same seed gives the same text, the text is well formed, and nothing held out is drawn."""

import ast
import json
import random

import pytest

from sample_data import corpus, formal, held_out, stream, tasks, tokenizer, world
from sample_data.recipe import LABEL_WEIGHTS, LABELS, PROMPTS_FILE, RECIPE, TASKS_DIR


@pytest.fixture(scope="module")
def encoder():
    return stream.Encoder(tokenizer.load())


def test_weights_are_shares():
    assert sum(LABEL_WEIGHTS.values()) == pytest.approx(1)
    assert set(corpus.GENERATORS) == set(LABELS)


@pytest.mark.parametrize("label", LABELS)
def test_same_seed_same_text(label):
    first, second = (
        [corpus.GENERATORS[label](rng, False) for _ in range(20)] for rng in (random.Random(5), random.Random(5))
    )
    assert first == second
    assert len({corpus.text_of_passages([passage]) for passage in first}) > 10


def test_shard_is_a_function_of_its_number(encoder):
    assert stream.shard_text(3, encoder) == stream.shard_text(3, encoder) != stream.shard_text(4, encoder)


def test_published_tasks_and_prompts_are_what_the_scripts_write():
    for name, lines in tasks.TASKS.items():
        assert tasks.read_lines(TASKS_DIR / f"{name}.jsonl") == list(lines())
    assert tasks.read_lines(PROMPTS_FILE) == list(tasks.prompts(tokenizer.load()))


def test_no_evaluation_text_in_the_training_stream(encoder):
    """Here the first, a middle and the last shard; `build held-out` searches all."""
    last = RECIPE.steps // RECIPE.steps_per_shard - 1
    haystack = "\n\n".join(stream.shard_text(number, encoder) for number in (0, last // 2, last))
    assert held_out.found(held_out.evaluation_texts(), haystack) == []


def test_the_search_can_find(encoder):
    haystack = stream.shard_text(0, encoder)
    assert held_out.found([haystack[5000:5060], "not in there"], haystack) == [haystack[5000:5060]]


def test_held_out_search_covered_the_published_texts(encoder):
    report = json.loads(held_out.REPORT.read_text())
    assert report["found"] == 0
    assert report["evaluation_texts"] == len(held_out.evaluation_texts())
    assert report["shards"] * RECIPE.steps_per_shard == RECIPE.steps
    assert report["first_shard_sha256"] == held_out.fingerprint(stream.shard_text(0, encoder))


@pytest.mark.parametrize("kept", [True, False])
def test_sums_keep_to_their_side(kept):
    rng = random.Random(1)
    for _ in range(300):
        a, b = corpus.draw_sum(rng, held_out=kept)
        assert corpus.is_held_out_sum(a, b) == corpus.is_held_out_sum(b, a) == kept


def test_sum_steps_add_up():
    rng = random.Random(2)
    for _ in range(200):
        a, b = corpus.draw_sum(rng, held_out=False)
        for step in corpus.sum_steps(a, b).split("; "):
            left, _, right = step.partition(" carry ")[0].partition("=")
            assert sum(map(int, left.split("+"))) == int(right)
        assert corpus.sum_item(a, b).answer.endswith(f"</think>{a + b}")


def test_texts_contradict_and_keep_to_their_side():
    rng = random.Random(3)
    for kept in (True, False):
        for _ in range(200):
            for claim in corpus.draw_claims(rng, held_out=kept):
                assert claim.value != claim.fact.value
                assert claim.value in world.contradictions(claim.fact, kept)
                assert claim.value not in world.contradictions(claim.fact, not kept)


def test_the_held_out_question_is_never_asked_in_training():
    rng = random.Random(4)
    kept_back = {corpus.question(fact, world.held_out_question(fact)) for fact in world.facts()}
    asked = {item.prompt for _ in range(5000) for item in corpus.facts(rng, held_out=False)}
    assert not asked & kept_back


def test_code_and_json_parse():
    rng = random.Random(6)
    for _ in range(200):
        ast.parse(formal.code(rng))
        assert isinstance(json.loads(formal.json_record(rng)), dict)


def test_sql_parses():
    import duckdb

    rng = random.Random(7)
    for _ in range(100):
        assert len(duckdb.extract_statements(formal.sql(rng))) == 1


def test_rows_do_not_mix_documents(encoder):
    """Positions start again at each `<s>`, and a token sees no other document."""
    from sample_data import train

    tokens, weights, documents = train.batch_of(stream.shard(0, encoder)[:8])
    positions, mask = train.positions_of(documents), train.document_mask(documents)
    assert (positions[tokens == encoder.bos] == 0).all()
    assert mask[:, 0].sum(-1).equal(positions + 1)
    assert (weights[tokens == encoder.bos] == 0).all()
    assert (weights[tokens == encoder.pad] == 0).all()
