"""An order drawn from names alone is spread over all folders, and stays as it is when names come and go."""

from collections import Counter

from datasets.seeding import spread


def test_the_first_few_come_from_all_over_the_corpus() -> None:
    names = [f"{folder}/{number:03d}" for folder in ("a set", "second", "z") for number in range(120)]
    chosen = Counter(name.split("/")[0] for name in spread(names)[:24])
    assert len(chosen) == 3
    assert min(chosen.values()) >= 3
    assert spread(reversed(names)) == spread(names)


def test_one_name_more_moves_no_other() -> None:
    names = [f"song {number}" for number in range(50)]
    more = spread([*names, "another", "caf\u00e9", "broken \udce9"])
    assert [name for name in more if name in set(names)] == spread(names)
