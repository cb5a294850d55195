"""The tokenizer: byte-level BPE in which every digit, the line break and the thinking marks are tokens of their own."""

import random

from sample_data.corpus import GENERATORS, text_of_passages
from sample_data.recipe import LABEL_WEIGHTS, MODEL_DIR, RECIPE

PAD, BOS, EOS, THINK, END_THINK = "<pad>", "<s>", "</s>", "<think>", "</think>"
SPECIAL = [PAD, BOS, EOS, THINK, END_THINK]

# One digit a token: sums are then digit by digit. The line break alone: it ends an answer, whatever comes next.
PIECES = r"\n|\p{N}| ?\p{L}+| ?[^\s\p{L}\p{N}]+| +"


def _sample_text(passages: int = 40_000) -> list[str]:
    """Text in the proportions the model will see, from a seed of its own."""
    rng = random.Random(f"{RECIPE.seed}-tokenizer")
    labels = rng.choices(list(LABEL_WEIGHTS), list(LABEL_WEIGHTS.values()), k=passages)
    return [text_of_passages([GENERATORS[label](rng, False)]) for label in labels]


def train_tokenizer():
    """Train the BPE and wrap it for transformers; a document starts with `<s>` by itself."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    bpe = Tokenizer(models.BPE())
    pieces = pre_tokenizers.Split(Regex(PIECES), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    bpe.pre_tokenizer = pre_tokenizers.Sequence([pieces, byte_level])
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=RECIPE.vocab_size, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator(_sample_text(), trainer)
    bpe.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bpe.token_to_id(BOS))]
    )
    return _wrap(bpe)


def _wrap(bpe):
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        additional_special_tokens=[THINK, END_THINK],
        model_max_length=256,
        clean_up_tokenization_spaces=False,
    )


def build() -> None:
    """Write the tokenizer files into the model's folder."""
    MODEL_DIR.mkdir(parents=True, exist_ok=True)
    train_tokenizer().save_pretrained(MODEL_DIR)


def load():
    """The tokenizer as published."""
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(MODEL_DIR)
