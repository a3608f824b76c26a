"""The cache of messages built from domain values."""

from authsvc.rpc.message_cache import MessageCache


class _Thing:
    """Equal to all other instances, as domain values may be."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Thing)

    def __hash__(self) -> int:
        return 1


def _kept(cache: MessageCache[_Thing, str]) -> int:
    return len(cache._young.keys() | cache._old.keys())


def test_message_is_returned_for_its_own_object_only() -> None:
    cache: MessageCache[_Thing, str] = MessageCache(10)
    first, second = _Thing(), _Thing()
    cache.put("key", first, "first")
    assert cache.get("key", first) == "first"
    assert cache.get("key", second) is None
    assert cache.get("other", first) is None


def test_newer_version_replaces_older_one() -> None:
    cache: MessageCache[_Thing, str] = MessageCache(10)
    older, newer = _Thing(), _Thing()
    cache.put("key", older, "older")
    cache.put("key", newer, "newer")
    assert cache.get("key", newer) == "newer"
    assert cache.get("key", older) is None
    assert _kept(cache) == 1


def test_stale_message_in_older_generation_is_not_returned() -> None:
    cache: MessageCache[_Thing, str] = MessageCache(1)
    older, newer, other = _Thing(), _Thing(), _Thing()
    cache.put("key", older, "older")
    cache.put("other", other, "other")
    assert cache.get("key", newer) is None
    cache.put("key", newer, "newer")
    assert cache.get("key", newer) == "newer"
    assert cache.get("key", older) is None


def test_number_of_messages_is_bounded() -> None:
    cache: MessageCache[_Thing, str] = MessageCache(10)
    for number in range(1_000):
        cache.put(number, _Thing(), "message")
        assert _kept(cache) <= 20


def test_recently_used_message_is_kept() -> None:
    cache: MessageCache[_Thing, str] = MessageCache(10)
    used, unused = _Thing(), _Thing()
    cache.put("used", used, "used")
    cache.put("unused", unused, "unused")
    for number in range(1_000):
        cache.put(number, _Thing(), "message")
        assert cache.get("used", used) == "used"
    assert cache.get("unused", unused) is None
