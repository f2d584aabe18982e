import mlx.core as mx
import numpy as np
import pytest

from afm_mlx.inference.prompt_cache import PromptCache
from afm_mlx.inference.steps import new_caches

ROOM = 10**9


@pytest.fixture
def read(engine):
    """Function to read ids with the tiny model, from caches if there are some."""

    def run(ids, caches=None, start=0):
        caches = caches or new_caches(engine.model)
        logits = engine.model(mx.array([ids[start:]]), cache=caches)
        mx.eval(logits)
        return np.array(logits[0, -1]), caches

    return run


def test_the_longest_known_beginning_is_found(read):
    cache = PromptCache()
    for ids in ([20, 21, 22, 23], [20, 21, 30, 31, 32], [40, 41]):
        cache.put(None, ids, read(ids)[1], room=ROOM)
    for ids, shared in (
        ([20, 21, 30, 31, 99], 4),
        ([20, 21, 22, 99], 3),
        ([20, 21, 50, 51], 2),
        ([50, 51], 0),
        ([40], 0),
        ([40, 41], 1),  # one token is left to read
    ):
        assert cache.take(None, ids, room=ROOM)[1] == shared, ids


@pytest.mark.parametrize("known", [1, 5, 255, 256, 257])
def test_reading_on_from_a_known_beginning_is_reading_all(read, known):
    ids = [20 + number * 7 % 300 for number in range(300)]
    for stored in (ids[:known], [*ids[:known], 330, 331]):  # handed over, and copied
        cache = PromptCache()
        cache.put(None, stored, read(stored)[1], room=ROOM)
        caches, start = cache.take(None, ids, room=ROOM)
        assert start == known
        assert read(ids, caches, start)[0] == pytest.approx(read(ids)[0], abs=1e-5)


def test_what_is_handed_out_does_not_change_what_is_kept(read):
    cache = PromptCache()
    kept, wanted = [20, 21, 22, 23, 24], [20, 21, 22, 60, 61, 62]
    cache.put(None, kept, read(kept)[1], room=ROOM)
    caches, start = cache.take(None, wanted, room=ROOM)
    read(wanted, caches, start)
    caches, start = cache.take(None, [*kept, 25], room=ROOM)
    assert start == 5
    assert read([*kept, 25], caches, start)[0] == pytest.approx(read([*kept, 25])[0], abs=1e-5)


def test_kinds_are_kept_apart(read):
    cache = PromptCache()
    cache.put("a", [20, 21, 22], read([20, 21, 22])[1], room=ROOM)
    assert cache.take("b", [20, 21, 22, 23], room=ROOM) == ([], 0)
    assert cache.take("a", [20, 21, 22, 23], room=ROOM)[1] == 3


def test_an_entry_that_goes_on_takes_the_place_of_its_beginning(read):
    cache = PromptCache()
    cache.put(None, [20, 21], read([20, 21])[1], room=ROOM)
    cache.put(None, [20, 30], read([20, 30])[1], room=ROOM)
    cache.put(None, [20, 21, 22], read([20, 21, 22])[1], room=ROOM)
    assert len(cache) == 2


def test_the_least_recently_used_goes_first(read):
    cache = PromptCache()
    for first in (20, 30, 40):
        cache.put(None, [first, 21, 22], read([first, 21, 22])[1], room=ROOM)
    each = cache.nbytes // 3
    cache.take(None, [20, 21, 99], room=ROOM)  # used, so it is the newest
    cache.put(None, [50, 21], read([50, 21])[1], room=3 * each)
    assert cache.nbytes <= 3 * each
    known = [cache.take(None, [first, 21, 99], room=ROOM)[1] for first in (20, 30, 40, 50)]
    assert known == [2, 0, 2, 2]


def test_room_is_never_passed(read):
    cache = PromptCache()
    caches = read([20, 21, 22])[1]
    size = sum(layer.nbytes for layer in caches)
    cache.put(None, [20, 21, 22], caches, room=size - 1)
    assert (len(cache), cache.nbytes) == (0, 0)
    cache.put(None, [20, 21, 22], caches, room=size)
    assert cache.nbytes == size
    assert cache.take(None, [20, 21, 99], room=size - 1) == ([], 0)  # a copy would be too much
    assert cache.nbytes == 0


def test_what_goes_on_is_handed_over_even_where_there_is_no_room_to_keep_it(read):
    cache = PromptCache()
    cache.put(None, [20, 21, 22], read([20, 21, 22])[1], room=ROOM)
    assert cache.take(None, [20, 21, 22, 23], room=0)[1] == 3
    assert len(cache) == 0
