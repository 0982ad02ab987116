"""The corpus: what is read, what counts as the same text, and that nothing of it is on both sides of a split."""

import json
import zipfile

import numpy as np
import pytest

from stages.ch09_translation.corpus import (
    cleaned,
    groups,
    home_assistant_pairs,
    sameness,
    some_pairs,
    split_pairs,
    unique_pairs,
)


def test_texts_of_the_same_key_make_pairs(tmp_path):
    files = {
        "light/translations/en.json": {"title": "Light", "state": {"on": "On", "off": "Off", "x": "Only English"}},
        "light/translations/ru.json": {"title": "Light", "state": {"on": "Вкл", "off": "Выкл", "y": "Нет"}},
        "sun/translations/ru.json": {"title": "Солнце"},  # no English file
        "sun/translations/de.json": {"title": "Sonne"},
    }
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as archive:
        for name, content in files.items():
            archive.writestr(f"homeassistant/components/{name}", json.dumps(content, ensure_ascii=False))
        archive.writestr("homeassistant/strings/translations/ru.json", "not this one")
    assert home_assistant_pairs(tmp_path / "wheel.whl") == [("On", "Вкл"), ("Off", "Выкл")]


def test_pairs_come_in_the_order_of_their_files_names(tmp_path):
    names = [f"component{number:02}" for number in range(30)]
    with zipfile.ZipFile(tmp_path / "wheel.whl", "w") as archive:
        for name in reversed(names):
            for language, text in (("en", name), ("ru", f"Часть {name}")):
                file = f"homeassistant/components/{name}/translations/{language}.json"
                archive.writestr(file, json.dumps({"title": text}, ensure_ascii=False))
    assert [english for english, _ in home_assistant_pairs(tmp_path / "wheel.whl")] == names


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("  two\n\tlines\u00a0here ", "two lines here"),
        ("e\u0301te\u0301", "été"),
        ("a\x00b\u200bc", "a b c"),
        ("🙂 stays", "🙂 stays"),
        ("\x1b", ""),
    ],
)
def test_cleaned(text, expected):
    assert cleaned(text) == expected


def test_sameness_passes_over_case_digits_punctuation_and_placeholders():
    same = [
        "Sensor {number} is on.",
        "sensor 12 is on",
        "SENSOR is on!",
        "Sensor <b>is</b> on",
        "sensor [%key:a%] is on",
    ]
    assert len({sameness(text) for text in same}) == 1
    assert sameness("Sensor is off") != sameness("Sensor is on")
    assert sameness("{a} 12 !") == ""


def test_repeats_and_empty_texts_are_left_out():
    pairs = [("On", "Вкл"), (" On ", "Вкл"), ("On", "Включено"), ("", "Пусто"), ("{a}", "{a} штук"), ("Off", " ")]
    assert unique_pairs(pairs) == [("On", "Вкл"), ("On", "Включено")]


def test_groups_join_what_shares_a_text_on_either_side():
    pairs = [("a", "а"), ("A!", "б"), ("c", "Б"), ("d", "д"), ("e", "12"), ("f", "13")]
    assert groups(pairs) == [0, 0, 0, 1, 2, 3]


def made_up_pairs() -> list[tuple[str, str]]:
    import random

    draw = random.Random(0)
    words, russian = ["light", "fan", "door", "lock", "sun"], ["свет", "вентилятор", "дверь", "замок", "солнце"]
    pairs = []
    for _ in range(2000):
        chosen = [draw.randrange(5) for _ in range(draw.randrange(1, 7))]
        mark, number = draw.choice(["", ".", "!"]), draw.choice(["", " 1", " 22", " {name}"])
        english = " ".join(words[index] for index in chosen) + number + mark
        pairs.append((draw.choice([english, english.upper()]), " ".join(russian[index] for index in chosen) + mark))
    return pairs


def test_no_near_repeat_is_on_both_sides_of_a_split():
    pairs = unique_pairs(made_up_pairs())
    split = split_pairs(pairs, 0.1, 0.1, seed=3)
    assert sorted(pair for own in split.values() for pair in own) == sorted(pairs)
    for language in (0, 1):
        seen = {part: {sameness(pair[language]) for pair in own} for part, own in split.items()}
        assert not seen["train"] & seen["test"] and not seen["train"] & seen["val"] and not seen["val"] & seen["test"]
    total = len(set(groups(pairs)))
    assert abs(len({sameness(pair[0]) for pair in split["test"]}) - total / 10) < total / 20


def test_shares_of_a_split_are_those_asked_for():
    words = [f"{chr(97 + number % 26)}{chr(97 + number // 26)}" for number in range(400)]
    pairs = [(word, f"слово {word}") for word in words]
    split = split_pairs(pairs, val_share=0.05, test_share=0.2, seed=0)
    assert {part: len(own) for part, own in split.items()} == pytest.approx(
        {"train": 300, "val": 20, "test": 80}, abs=3
    )


def test_split_follows_the_seed_and_not_the_number_of_calls():
    pairs = unique_pairs(made_up_pairs())
    assert split_pairs(pairs, 0.1, 0.1, 3) == split_pairs(pairs, 0.1, 0.1, 3)
    assert split_pairs(pairs, 0.1, 0.1, 3) != split_pairs(pairs, 0.1, 0.1, 4)


def test_some_pairs_are_drawn_from_all_and_keep_their_order():
    pairs = [(str(number), str(number)) for number in range(1000)]
    some = some_pairs(pairs, 300, seed=0)
    places = [pairs.index(pair) for pair in some]
    assert len(set(places)) == 300 and places == sorted(places)
    assert np.histogram(places, 4, (0, 1000))[0].min() > 50
    assert some_pairs(pairs, 300, seed=0) == some != some_pairs(pairs, 300, seed=1)
    assert some_pairs(pairs, 1001, seed=0) == pairs


def test_a_corpus_with_nothing_left_is_one_clear_line():
    with pytest.raises(ValueError, match="the corpus has 0 pairs after cleaning: none are left for train"):
        split_pairs([], 0.1, 0.1, 0)
    with pytest.raises(ValueError, match="the corpus has 2 pairs after cleaning: none are left for val"):
        split_pairs([("a", "а"), ("b", "б")], 0.1, 0.1, 0)
