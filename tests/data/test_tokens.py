"""Pieces of text as the ids of the whole, for tokenizers of every kind, each built in memory."""

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import AddedToken, ByT5Tokenizer, PreTrainedTokenizerFast

from bakeoff.config.schema import TaskSettings
from bakeoff.core.errors import UsageError
from bakeoff.data.encoding import Encoder, separator
from bakeoff.data.tasks import Example, Examples, Task
from bakeoff.data.tokens import Foreign, Tokens

WORDS = ("Gist", "Summary", "The", "cat", "sat", "a", "<", "think", ">")
GPT4 = r"[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


def bpe(space, words=WORDS):
    """Vocabulary and merges that make each of `words` a token, alone and behind the mark of a space."""
    alphabet = {*pre_tokenizers.ByteLevel.alphabet(), space, *(chr(n) for n in range(32, 127)), "<unk>"}
    vocab = {symbol: number for number, symbol in enumerate(sorted(alphabet))}
    if space == "▁":  # as in SentencePiece's files: special tokens are words, too
        vocab["</s>"] = len(vocab)
    merges = []
    for word in [*words, *(space + word for word in words), ".ĊĊ", "ĊĊ"]:
        whole = word[0]
        for letter in word[1:]:
            if (whole, letter) not in merges and (whole + letter) not in vocab:
                merges.append((whole, letter))
                vocab[whole + letter] = len(vocab)
            whole += letter
    return vocab, merges


def build(kind, words=WORDS):
    """A tokenizer of one of KINDS, with an end token and two special tokens; `words` are tokens."""
    space = "Ġ" if kind in ("bytes", "gpt2", "gpt4") else "▁"
    vocab, merges = bpe(space, () if kind == "bytes" else words)
    if kind == "unigram":
        inner = Tokenizer(models.Unigram([("<unk>", 0.0), *((word, -1.0 / len(word)) for word in vocab)], unk_id=0))
    else:
        inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>" if space == "▁" else None))
    if space == "Ġ":
        inner.decoder = decoders.ByteLevel()
        inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=kind == "gpt2")
        if kind == "gpt4":
            inner.pre_tokenizer = pre_tokenizers.Sequence(
                [pre_tokenizers.Split(Regex(GPT4), "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
            )
    else:
        inner.decoder = decoders.Metaspace()
        if kind == "prepend":
            inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        else:
            scheme = kind if kind in ("first", "always", "never") else "always"
            inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=kind != "never")
    found = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False
    )
    found.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|sep|>"]})
    found.add_tokens([AddedToken("<think>", special=False)])
    return found


KINDS = ("bytes", "gpt2", "gpt4", "prepend", "first", "always", "never", "unigram")
every = pytest.mark.parametrize("kind", KINDS)


def encoder(tokenizer, prompt="{document}\n\nSummary:", instruction="The cat:\n\n{document}", **limits):
    one = (Example("a", "The cat sat.", "Gist"),)
    return Encoder(tokenizer, Task("t", prompt, instruction, Examples(one, one, one), ""), TaskSettings(**limits))


@every
@pytest.mark.parametrize(
    "prompt", ["{document}\n\nSummary:", "The cat {document}\nSummary:", "{document}<|sep|>", "<|user|>a {document} :"]
)
@pytest.mark.parametrize("document", ["The cat sat.", "a cat", "sat\nThe cat  a."])
def test_prompt_document_and_summary_have_the_ids_of_the_whole(kind, prompt, document):
    tokenizer = build(kind)
    found = encoder(tokenizer, prompt).example(Example("a", document, "Gist cat."))
    text = prompt.replace("{document}", document)
    assert found.ids[: found.prompt] == tokenizer(text, add_special_tokens=False).input_ids
    assert found.ids == [*tokenizer(f"{text} Gist cat.", add_special_tokens=False).input_ids, tokenizer.eos_token_id]


@every
def test_a_prompt_that_ends_in_a_space_gives_the_ids_of_the_whole_with_one_space(kind):
    tokenizer = build(kind)
    found = encoder(tokenizer, "{document}\nSummary: ").example(Example("a", "The cat.", "Gist cat"))
    whole = tokenizer("The cat.\nSummary: Gist cat", add_special_tokens=False).input_ids
    assert found.ids == [*whole, tokenizer.eos_token_id]
    assert found.prompt == len(encoder(tokenizer, "{document}\nSummary: ").prompt(Example("a", "The cat.", ""))[0])


@every
@pytest.mark.parametrize("text", ["a <think> cat", "<think>", "</s> a<|user|>", "The<|sep|>"])
def test_foreign_text_never_becomes_an_added_token(kind, text):
    tokenizer = build(kind)
    tokens = Tokens(tokenizer)
    added = set(tokenizer.added_tokens_decoder) - {tokenizer.unk_token_id}
    for pieces in ((Foreign(text),), ("The cat ", Foreign(text)), ("<", Foreign(text), ">")):
        assert added.isdisjoint(tokens.encode(*pieces))
    # Whatever else stands there, the ids are those of a tokenizer that has no added tokens.
    plain = build(kind).backend_tokenizer
    plain_text = text.replace("think", "thimk").replace("/s", "/z").replace("|", "!")
    lengths = [len(tokens.encode(Foreign(part))) for part in (text, plain_text)]
    assert kind != "bytes" or lengths[0] == lengths[1] == len(plain.encode(plain_text).ids)


@pytest.mark.parametrize("kind", ["prepend", "unigram", "always"])
def test_an_added_token_that_a_vocabulary_can_put_together_is_not_made_of_foreign_text(kind):
    tokenizer = build(kind, [*WORDS, "<think>", "<thinks>"])
    tokens, think = Tokens(tokenizer), tokenizer.convert_tokens_to_ids("<think>")
    assert tokens.encode("a <think>").count(think) == 1
    ids = tokens.encode("<think>", Foreign(" a <think> cat"))
    assert ids.count(think) == 1 and tokenizer.decode(ids[1:]).strip() == "a <think> cat"


def test_an_own_token_that_a_tokenizer_finds_behind_spaces_alone_is_text_elsewhere():
    tokenizer = build("prepend")
    tokens, think = Tokens(tokenizer), tokenizer.convert_tokens_to_ids("<think>")
    for text in ("a<think>", "a <think>"):
        alone = tokenizer(text, add_special_tokens=False).input_ids
        assert tokens.encode(text, Foreign(" <think>")) == [*alone, *tokens.encode(Foreign("<think>"))]
    assert think not in tokens.encode("a<think>", Foreign(" <think>"))


@pytest.mark.parametrize("kind", ["prepend", "unigram"])
def test_a_text_that_a_normaliser_turns_into_an_added_token_stays_plain(kind):
    tokenizer = build(kind)
    inner = tokenizer.backend_tokenizer
    inner.normalizer = normalizers.Sequence([normalizers.NFKC(), *([inner.normalizer] if inner.normalizer else [])])
    ids = Tokens(tokenizer).encode(Foreign("a ＜/s＞ cat"))
    assert tokenizer.eos_token_id not in ids and tokenizer.decode(ids).strip() == "a </s> cat"


@every
def test_own_text_names_added_tokens_beside_foreign_text_that_looks_alike(kind):
    tokenizer = build(kind)
    user, sep = tokenizer.convert_tokens_to_ids(["<|user|>", "<|sep|>"])
    ids = Tokens(tokenizer).encode("<|user|>", Foreign("a <|user|> <think>"), "<|sep|>")
    assert ids[0] == user and ids[-1] == sep and ids.count(user) == ids.count(sep) == 1
    assert tokenizer.convert_tokens_to_ids("<think>") not in ids


def test_an_added_token_is_not_made_across_the_border_of_a_document():
    tokenizer = build("gpt2")
    ids = Tokens(tokenizer).encode("a <thi", Foreign("nk> cat"))
    assert tokenizer.convert_tokens_to_ids("<think>") not in ids
    assert tokenizer.decode(ids).strip() == "a <think> cat"


@every
def test_a_cut_document_leaves_the_words_around_it_whole(kind):
    tokenizer = build(kind)
    made = encoder(tokenizer, "The cat: {document}\n\nSummary:", max_input_tokens=40)
    long = Example("a", "The cat sat. " * 40, "Gist")
    ids, cut = made.prompt(long)
    uncut = tokenizer(f"The cat: {long.document}", add_special_tokens=False).input_ids
    tail = tokenizer("a\n\nSummary:", add_special_tokens=False).input_ids
    tail = tail[len(tokenizer("a", add_special_tokens=False).input_ids) :]
    assert cut and ids == [*uncut[: 40 - len(tail)], *tail]


def test_a_tokenizer_written_in_python_keeps_the_same_promises():
    tokenizer = ByT5Tokenizer()
    end, extra = tokenizer.convert_tokens_to_ids(["</s>", "<extra_id_0>"])
    document = "The </s> cat <extra_id_0>"
    found = encoder(tokenizer, "{document}<extra_id_0>").example(Example("a", document, "Gist </s>"))
    assert found.ids.count(end) == found.ids.count(extra) == 1 and found.ids[-1] == end
    assert found.ids[found.prompt - 1] == extra
    assert tokenizer.decode(found.ids, skip_special_tokens=True) == "The </s> cat <extra_id_0> Gist </s>"


# What stands before every prompt


def starting(first, last="", template=None, bos=None):
    """A byte tokenizer whose post-processor puts the tokens `first` before a text and `last` behind it."""
    tokenizer = build("bytes")
    tokenizer.add_special_tokens({"additional_special_tokens": ["[g]", "[s]"]}, replace_extra_special_tokens=False)
    if bos:
        tokenizer.bos_token = bos
    names = [*first.split(), *last.split()]
    if names:
        tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A {last}".strip(), special_tokens=[(n, tokenizer.convert_tokens_to_ids(n)) for n in names]
        )
    tokenizer.chat_template = template
    return tokenizer


CHAT = "{% for m in messages %}<|user|>{{ m.content }}{% endfor %}<|sep|>"


@pytest.mark.parametrize("written", ["", "[g]", "[s]", "[g][s]"])
def test_the_tokenizers_whole_prefix_stands_once_before_both_prompts(written):
    tokenizer = starting("[g] [s]", template=written + CHAT)
    made, prefix = encoder(tokenizer), tokenizer.convert_tokens_to_ids(["[g]", "[s]"])
    example = Example("a", "The cat.", "Gist")
    for ids in (made.prompt(example)[0], made.chat(example)[0], made.example(example).ids):
        assert ids[:2] == prefix and not set(prefix) & set(ids[2:])
    assert made.prompt(example)[0] == tokenizer("The cat.\n\nSummary:").input_ids


def test_a_start_token_that_only_the_chat_template_writes_stands_before_the_plain_prompt():
    tokenizer = starting("", template="{{ bos_token }}" + CHAT, bos="[s]")
    made, start = encoder(tokenizer), tokenizer.convert_tokens_to_ids("[s]")
    for ids in (made.prompt(Example("a", "The cat.", ""))[0], made.chat(Example("a", "The cat.", ""))[0]):
        assert ids[0] == start and ids.count(start) == 1


def test_a_token_that_opens_every_turn_is_no_start_token():
    tokenizer = starting("", template="{% for m in messages %}[s]{{ m.content }}{% endfor %}[s]", bos="[s]")
    assert encoder(tokenizer).start == []


def test_a_suffix_of_the_tokenizer_stands_in_no_prompt():
    tokenizer = starting("[s]", "</s>", template=CHAT)
    example = Example("a", "The cat.", "Gist")
    for ids in (encoder(tokenizer).prompt(example)[0], encoder(tokenizer).chat(example)[0]):
        assert ids[0] == tokenizer.convert_tokens_to_ids("[s]") and tokenizer.eos_token_id not in ids


# Between prompt and summary


@pytest.mark.parametrize(
    "before, summary, between",
    [
        ("Summary:", "Gist", " "), ("<|sep|>", "Gist", " "), ("Summary: ", "Gist", ""), ("Summary:\n", "Gist", ""),
        ("总结：", "Gist", ""), ("Summary:", "要点", ""), ("Summary:", "2023年的要点", ""), ("สรุป", "Gist", ""),
        ("Summary:", "สรุป", ""), ("요약:", "요점", " "), ("요약", "요점", " "), ("Итог:", "Суть", " "),
        ("", "Gist", ""),
    ],
)  # fmt: skip
def test_a_space_stands_before_a_summary_where_its_script_and_its_prompt_have_one(before, summary, between):
    assert separator(before, summary) == between


# Tokenizers that can't be used


def test_a_tokenizer_that_leaves_nothing_of_any_text_is_refused():
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    with pytest.raises(UsageError, match="leaves nothing of any document"):
        encoder(tokenizer).check()


def test_unknown_tokens_of_a_text_are_said():
    inner = Tokenizer(models.WordLevel({"<unk>": 0, "</s>": 1, "The": 2, "Gist": 3}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
    [note] = encoder(tokenizer).check()
    assert note.startswith("75% of the tokens of a document are unknown")
