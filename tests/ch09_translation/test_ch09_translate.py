"""The command that translates, and what it says to bad input; the corpora and where they come from."""

import io
import json
import os
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file, save_file

from stages.ch09_translation import download, translate
from stages.ch09_translation.corpus import opus_books_pairs
from stages.ch09_translation.model import Transformer
from stages.ch09_translation.tokens import FIRST, LAST, PAD
from stages.ch09_translation.translator import load_translator, longest_fitting
from stages.common.files import file_hash
from stages.common.params import read_yaml

SMALL = {
    "ch09.tuned.tokenizer": "wordlevel",
    "ch09.tuned.d_model": 16,
    "ch09.tuned.layers": 1,
    "ch09.tuned.d_ff": 16,
    "ch09.tuned.epochs": 1,
    "ch09.tuned.longest": 12,
}


@pytest.fixture(scope="module")
def trained(open_workspace):
    with open_workspace(SMALL) as workspace:
        workspace.write_translations()
        workspace.step("stages.ch09_translation.tokenize")
        AcceleratorState._reset_state(True)
        workspace.monkeypatch.setattr("stages.common.tracking.record_training", lambda *_, **__: "")
        workspace.step("stages.ch09_translation.train")
        yield workspace


@pytest.fixture
def said(trained, monkeypatch, capsys):
    """Run the command; returns (status, lines on standard output, lines on standard error)."""

    def run(*arguments: str, stdin: bytes = b"") -> tuple[int, list[str], list[str]]:
        monkeypatch.setattr(sys, "argv", ["translate", *arguments])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        try:
            status = translate.main()
        except SystemExit as stop:
            status = stop.code
        output = capsys.readouterr()
        return status, output.out.splitlines(), output.err.splitlines()

    return run


def test_texts_from_arguments_a_file_and_standard_input(said, tmp_path):
    text = "Ban don kins"
    status, lines, _ = said(text, "Lun men nos", "--beam", "1")
    assert (status, len(lines)) == (0, 2)
    path = tmp_path / "texts.txt"
    path.write_text(f"\ufeff{text}\n\nLun men nos\n", encoding="utf-8")
    assert said("--file", str(path), "--beam", "1")[1] == [lines[0], "", lines[1]]
    assert said("--beam", "1", stdin=f"{text}\n".encode())[1] == lines[:1]


def test_a_line_ends_where_files_end_lines_and_nowhere_else(said, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("Ban\u2028don\x85kins\r\nLun\x0cmen nos\rBan don\n\n".encode())
    assert len(said("--file", str(path), "--beam", "1")[1]) == 4


@pytest.mark.parametrize("text", ["", " \t ", "\x00\x07\u200b"])
def test_nothing_to_translate_gives_an_empty_line(said, text):
    assert said(text) == (0, [""], [])


def test_unknown_words_emoji_and_a_long_text(said):
    status, lines, remarks = said("Quidditch 🎉🎉 wrocks")
    assert (status, len(lines)) == (0, 1)
    assert remarks == ["text 1: 4 words are not in the vocabulary"]
    status, lines, remarks = said(" ".join(["Ban dor kis."] * 3333), "--beam", "1")
    assert (status, len(lines)) == (0, 1)
    assert remarks[-1].startswith("text 1: translated in ") and len(lines[0].split()) >= 1


def test_pieces_lose_nothing_and_fit(trained):
    translator = load_translator(translate.MODEL, translate.TOKENIZERS, torch.device("cpu"))
    for text in ("ban dor kis. " * 50, "ban " * 100, "b-" * 40, "ban dor"):
        pieces = translator.pieces(text)
        assert "".join(pieces).replace(" ", "") == text.replace(" ", "")
        assert all(translator.fits([piece], 0, 1) for piece in pieces)


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 8, 20])
def test_longest_run_that_fits(limit):
    assert longest_fitting(3, 20, lambda start, stop: stop - start <= limit) == min(20, 3 + limit)


def test_file_that_is_not_utf_8(said, tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("да".encode("cp1251"))
    assert said("--file", str(path)) == (1, [], [f"error: {path}: not UTF-8 text: byte 0 is 0xe4"])
    status, _, remarks = said("--file", str(tmp_path / "none.txt"))
    assert status == 1 and "No such file" in remarks[0]


def test_with_and_without_the_memory(said, trained):
    """A text that was trained on comes out as its pair has it; the network, of one epoch, can't do that."""
    import datasets

    train = datasets.load_from_disk(str(translate.CORPUS))["train"]
    text, translation = train["en"][0], train["ru"][0]
    assert said(text)[:2] == (0, [translation])
    assert said(text, "--no-memory")[1] != [translation]


def test_search_is_that_of_the_parameters(said, monkeypatch):
    searches = []

    def translated(self, texts, beams, penalty):
        searches.append((beams, penalty))
        return [""] * len(texts)

    monkeypatch.setattr(translate.Translator, "translate", translated)
    parameters = read_yaml("params.yaml")["ch09"]["tuned"]
    for arguments in ([], ["--beam", "3"], ["--penalty", "0.0"]):
        assert said("Ban dor kis", "--no-memory", *arguments)[0] == 0
    beams, penalty = parameters["beams"], parameters["length_penalty"]
    assert searches == [(beams, penalty), (3, penalty), (beams, 0.0)]


def test_only_the_memory_needs_the_corpus(said, monkeypatch, tmp_path):
    monkeypatch.setattr(translate, "CORPUS", tmp_path / "none")
    assert said("Ban dor kis") == (1, [], ["nothing is trained yet: first run dvc repro ch09_train"])
    assert said("Ban dor kis", "--no-memory")[0] == 0


def test_width_out_of_range_and_texts_given_twice(said):
    assert said("x", "--beam", "0")[0] == 2
    assert said("x", "--penalty", "11")[0] == said("x", "--penalty", "nan")[0] == 2
    assert said("x", "--file", "y")[0] == 2


def test_attention_that_cannot_be_drawn_there_is_one_line(said, tmp_path):
    for name in ("maps", "maps.svg"):
        status, _, err = said("--attention", str(tmp_path / name), "Ban dor")
        assert status == 2 and err[-1].endswith(f"{name}: must end in .png")
    (tmp_path / "file").touch()
    status, out, err = said("--attention", str(tmp_path / "file/maps.png"), "Ban dor")
    assert (status, len(out), len(err)) == (1, 1, 1) and err[0].startswith("error: ")


def test_an_argument_that_is_not_utf_8_is_one_line(said):
    status, out, err = said("Ban dor", os.fsdecode(b"\xcf\xf0"))
    assert (status, out, err) == (1, [], ["error: text 2: not UTF-8 text at character 1"])


def test_names_of_special_tokens_are_text(trained):
    translator = load_translator(
        trained.path / translate.MODEL, trained.path / translate.TOKENIZERS, torch.device("cpu")
    )
    for name in ("[PAD]", "[UNK]", "[SOS]", "[EOS]"):
        assert not {PAD, FIRST, LAST}.intersection(translator.tokens(f"Ban {name} dor"))


def test_threads_are_those_of_the_evaluation(said, monkeypatch):
    found = []
    monkeypatch.setattr(translate, "set_up_torch", lambda *arguments: found.append(arguments))
    assert said("Ban dor")[0] == 0
    assert found == [(0, 1)]


def test_attention_is_drawn(said, tmp_path):
    assert said("Ban dor kis", "--attention", str(tmp_path / "a.png"))[0] == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_attention_of_a_translation_without_an_end_is_drawn_as_far_as_the_network_reads(trained):
    import torch

    translator = translate.load_translator(translate.MODEL, translate.TOKENIZERS, torch.device("cpu"))
    endless = [5] * translator.longest
    translator.search = lambda texts, beams, penalty: [endless for _ in texts]
    maps, words, written = translate.attention_maps(translator, "Ban dor kis")
    assert maps.shape[1:] == (len(written), len(words)) and len(written) == translator.longest


@pytest.fixture
def changed(trained, tmp_path):
    """A copy of the model, to be changed: (path, tensors, metadata)."""
    from safetensors import safe_open

    with safe_open(translate.MODEL, framework="pt") as file:
        return tmp_path / "model.safetensors", load_file(translate.MODEL), file.metadata()


def refusal(path: Path) -> str:
    with pytest.raises(ValueError) as error:
        load_translator(path, translate.TOKENIZERS, torch.device("cpu"))
    return str(error.value)


def test_checkpoint_of_another_shape_or_of_something_else(changed):
    path, tensors, metadata = changed
    save_file(Transformer(9, 9, 8, 1, 2, 8).state_dict(), path, metadata)
    assert refusal(path).startswith(f"{path}: its weights are of another shape than it says")
    save_file(tensors, path)
    assert refusal(path) == f"{path}: a checkpoint of something else than the network of chapter 9"
    path.write_bytes(b"nothing")
    assert refusal(path).startswith(f"{path}: not a readable checkpoint")


def test_tokenizers_that_do_not_fit(changed):
    path, tensors, metadata = changed
    saved = json.loads(metadata["translator"])
    save_file(tensors, path, {"translator": json.dumps({**saved, "tokenizers": "0" * 64})})
    assert refusal(path) == f"{translate.TOKENIZERS} is not what {path} was trained with: run dvc repro ch09_train"


# The book's corpus


def parquet(path: Path, pairs: list[tuple[str, str]]) -> None:
    rows = [{"en": english, "ru": russian} for english, russian in pairs]
    pd.DataFrame({"id": range(len(rows)), "translation": rows}).to_parquet(path)


def test_opus_books_comes_from_the_hubs_path_and_is_read(open_workspace, tmp_path, monkeypatch):
    pairs = [(f"Sentence {number} of {chr(97 + number % 26)}{number // 26}", f"Фраза {number}") for number in range(40)]
    parquet(tmp_path / "books.parquet", pairs)
    content = (tmp_path / "books.parquet").read_bytes()
    asked = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}/")
    monkeypatch.setitem(download.SHA256, "opus_books", file_hash(tmp_path / "books.parquet", "sha256"))
    with open_workspace({"ch09.corpus": "opus_books"}) as workspace:
        workspace.monkeypatch.setattr(sys, "argv", ["download"])
        assert download.main() == 0
        assert Path("data/raw/ch09/opus_books.parquet").read_bytes() == content
        assert opus_books_pairs(Path("data/raw/ch09/opus_books.parquet")) == pairs
    server.shutdown()
    folder = "datasets/Helsinki-NLP/opus_books/resolve/6bf5beadd49473ae6fe94151600028ae59a01748"
    assert asked == [f"/{folder}/en-ru/train-00000-of-00001.parquet"]


def test_another_parquet_file_is_refused(tmp_path):
    pd.DataFrame({"text": ["x"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no column translation of en and ru"):
        opus_books_pairs(tmp_path / "x.parquet")


def test_a_corpus_with_no_pairs_left_ends_in_one_line(open_workspace, capsys):
    from stages.ch09_translation import tokenize

    with open_workspace({"ch09.corpus": "opus_books"}):
        Path("data/raw/ch09").mkdir(parents=True)
        parquet(Path("data/raw/ch09/opus_books.parquet"), [("...", "да"), ("!", "нет")])
        assert tokenize.main() == 1
        assert capsys.readouterr().err == "error: the corpus has 0 pairs after cleaning: none are left for train\n"
        assert not Path("data/prepared").exists()


def test_tokenizers_know_training_texts_alone(open_workspace):
    import datasets

    from stages.ch09_translation import tokenize
    from stages.ch09_translation.translator import load_tokenizers

    words = ["".join(chr(97 + int(digit)) for digit in f"{number:02}") for number in range(40)]
    with open_workspace({"ch09.corpus": "opus_books", "ch09.recipe": "book"}):
        Path("data/raw/ch09").mkdir(parents=True)
        parquet(Path("data/raw/ch09/opus_books.parquet"), [(f"{word} {word}", f"да {word} {word}") for word in words])
        assert tokenize.main() == 0
        corpus = datasets.load_from_disk(str(tokenize.CORPUS))
        for language, tokenizer in zip(("en", "ru"), load_tokenizers(tokenize.TOKENIZERS), strict=True):
            known = tokenizer.get_vocab()
            for part in ("train", "val", "test"):
                assert len(corpus[part])
                for text in corpus[part][language]:
                    assert (f"▁{text.split()[-1]}" in known) == (part == "train"), (part, text)
