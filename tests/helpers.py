"""Small encoders and corpora that tests make for themselves."""

import json

import numpy as np

ROBERTA = {
    "model_type": "roberta",
    "pad_token_id": 1,
    "bos_token_id": 0,
    "eos_token_id": 2,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
}
SPECIALS = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
TRAINING_TEXT = [
    "alpha beta gamma delta epsilon zeta eta theta iota kappa",
    "a kind of person in the city eats food and a dish, then sees a movie",
]


def make_encoder(folder, *, layers=2, hidden=16, heads=2, mlp=32, positions=66, vocab_size=400, seed=0):
    """A random RoBERTa as a Hugging Face folder with a byte-level BPE tokenizer; returns the folder."""
    import jax
    from tokenizers import ByteLevelBPETokenizer
    from transformers import RobertaTokenizerFast

    from nuner_jax.model.encoder import EncoderConfig, init_params
    from nuner_jax.model.hf import save_encoder

    folder.mkdir(parents=True, exist_ok=True)
    bpe = ByteLevelBPETokenizer(add_prefix_space=True)
    bpe.train_from_iterator(TRAINING_TEXT, vocab_size=vocab_size, min_frequency=1, special_tokens=SPECIALS, show_progress=False)
    bpe.save_model(str(folder))
    tokenizer = RobertaTokenizerFast(str(folder / "vocab.json"), str(folder / "merges.txt"), add_prefix_space=True)
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads, "intermediate_size": mlp}
    config = EncoderConfig.from_hf({**ROBERTA, **sizes, "vocab_size": len(tokenizer), "max_position_embeddings": positions})
    params = jax.tree.map(
        lambda x: np.asarray(x) * 4, init_params(config, jax.random.key(seed))
    )  # large enough to tell tokens apart
    save_encoder(folder, config, params, {})
    return folder


WORDS = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta", "iota", "kappa"]


def write_mentions(path, count=120, seed=0):
    """Annotated sentences of known words, as JSON lines; a word that begins with a to e is a mention of a concept of its own."""
    rng = np.random.default_rng(seed)
    with open(path, "w", encoding="utf8") as file:
        for n in range(count):
            words = [f"{WORDS[i]}{n % 7}" if i > 1 else WORDS[i] for i in rng.integers(0, 10, rng.integers(2, 12))]
            mentions, start = [], 0
            for word in words:
                if word[0] in "abgde":
                    span = {"start": start, "end": start + len(word)}
                    mentions.append({**span, "concept": f"kind of {word}", "description": f"the {word}"})
                start += len(word) + 1
            file.write(json.dumps({"text": " ".join(words), "mentions": mentions}) + "\n")
    return path


def make_dataset(folder, encoder, count=200, seed=0):
    """A packed data set of rows of 32 tokens made of `write_mentions`; returns its data_dir."""
    from nuner_jax.config import DatasetConfig
    from nuner_jax.dataset.builder import build
    from nuner_jax.lists import Strs

    folder.mkdir(parents=True, exist_ok=True)
    text = write_mentions(folder / "a.jsonl", count, seed)
    sizes = {"row_length": 32, "mentions_per_row": 12, "validation_fraction": 0.1}
    build(DatasetConfig(input=Strs([str(text)]), out=str(folder / "data"), tokenizer=str(encoder), **sizes))
    return folder / "data"


def write_json_lines(path, rows):
    """Writes rows as JSON lines; returns the path."""
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf8")
    return path


def make_bert(folder, *, seed=0):
    """A random BERT of two layers as a Hugging Face folder with a WordPiece tokenizer; returns the folder."""
    import jax
    from tokenizers import BertWordPieceTokenizer
    from transformers import BertTokenizerFast

    from nuner_jax.model.encoder import EncoderConfig, init_params
    from nuner_jax.model.hf import save_encoder

    folder.mkdir(parents=True, exist_ok=True)
    pieces = BertWordPieceTokenizer()
    pieces.train_from_iterator(TRAINING_TEXT, vocab_size=90, min_frequency=1, show_progress=False)
    pieces.save_model(str(folder))
    tokenizer = BertTokenizerFast(str(folder / "vocab.txt"))
    tokenizer.save_pretrained(folder)
    config = EncoderConfig("bert", len(tokenizer), 16, 2, 2, 32, 48, 2, 1e-12)
    params = jax.tree.map(lambda x: np.asarray(x) * 4, init_params(config, jax.random.key(seed)))
    save_encoder(folder, config, params, {})
    return folder


def make_xlmr(folder, *, seed=0):
    """A random XLM-R of two layers as a Hugging Face folder with a unigram tokenizer; returns the folder."""
    import jax
    from tokenizers import SentencePieceUnigramTokenizer
    from transformers import XLMRobertaTokenizerFast

    from nuner_jax.model.encoder import EncoderConfig, init_params
    from nuner_jax.model.hf import save_encoder

    folder.mkdir(parents=True, exist_ok=True)
    pieces = SentencePieceUnigramTokenizer()
    pieces.train_from_iterator(TRAINING_TEXT * 3, vocab_size=90, special_tokens=SPECIALS, unk_token="<unk>", show_progress=False)
    tokens = json.loads(pieces.to_str())["model"]["vocab"]
    tokenizer = XLMRobertaTokenizerFast(vocab=[tuple(row) for row in tokens])
    tokenizer.save_pretrained(folder)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    places = {"vocab_size": len(tokenizer), "max_position_embeddings": 66}
    config = EncoderConfig.from_hf({**ROBERTA, "model_type": "xlm-roberta", **sizes, **places})
    params = jax.tree.map(lambda x: np.asarray(x) * 4, init_params(config, jax.random.key(seed)))
    save_encoder(folder, config, params, {})
    return folder
