"""Owns the blocks in memory: compact, and quick to tell until when an address is blocked.

Most blocks are in arrays, sorted by their first address; each knows the block that encloses it. So
one binary search finds the longest prefix, and the blocks around it follow from there. A million
blocks take 20 MB, or 30 MB if they are of IPv6. Blocks that were added since the arrays were built
are in a dictionary for each length of a prefix. To remove a block is to put an end in the past.
"""

from array import array
from bisect import bisect_left, bisect_right
from socket import AF_INET, AF_INET6, inet_pton

_HALF = (1 << 64) - 1


class IpBlocks:
    """Blocked networks, each until a time in seconds since the epoch."""

    def __init__(self) -> None:
        self._ipv4, self._ipv6 = _Family(32), _Family(128)

    def __len__(self) -> int:
        return len(self._ipv4) + len(self._ipv6)

    @property
    def added(self) -> int:
        """How many blocks are not in the arrays, and therefore take more memory."""
        return self._ipv4.added_count + self._ipv6.added_count

    def end_of(self, address: str) -> float:
        """Return the latest end of all blocks that contain a canonical address; 0 if none does."""
        if ":" in address:
            return self._ipv6.end_of(int.from_bytes(inet_pton(AF_INET6, address)))
        return self._ipv4.end_of(int.from_bytes(inet_pton(AF_INET, address)))

    def append(self, network: str, end: float) -> None:
        """Add a block that follows all others in the order of PostgreSQL."""
        family, first, length = self._parse(network)
        family.append(first, length, end)

    def put(self, network: str, end: float) -> None:
        """Set until when a network in CIDR notation is blocked."""
        family, first, length = self._parse(network)
        family.put(first, length, end)

    def _parse(self, network: str) -> tuple["_Family", int, int]:
        address, _, length = network.partition("/")
        if ":" in address:
            return self._ipv6, int.from_bytes(inet_pton(AF_INET6, address)), int(length)
        return self._ipv4, int.from_bytes(inet_pton(AF_INET, address)), int(length)


class _Family:
    """The blocks of one family; addresses are numbers of `bits` bits."""

    def __init__(self, bits: int) -> None:
        self._bits = bits
        # In five arrays, the first address (IPv6: its halves) and the length of a block's prefix,
        # its end, and the index of the block that encloses it or -1.
        self._tops, self._lows = array("Q" if bits > 64 else "I"), array("Q")
        self._lengths = array("B")
        self._ends = array("d")
        self._parents = array("i")
        # While the arrays are built: the last block, after those that enclose it.
        self._path: list[int] = []
        # By length, and by the bits of the prefix.
        self._added: dict[int, dict[int, float]] = {}

    def __len__(self) -> int:
        return len(self._tops) + self.added_count

    @property
    def added_count(self) -> int:
        return sum(map(len, self._added.values()))

    def end_of(self, address: int) -> float:
        latest = 0.0
        index = self._last_up_to(address)
        while index >= 0:
            if self._ends[index] > latest and self._contains(index, address):
                latest = self._ends[index]
            index = self._parents[index]
        for length, blocks in self._added.items():
            end = blocks.get(address >> (self._bits - length))
            if end is not None and end > latest:
                latest = end
        return latest

    def append(self, first: int, length: int, end: float) -> None:
        path = self._path
        while path and not self._contains(path[-1], first):
            path.pop()
        self._parents.append(path[-1] if path else -1)
        path.append(len(self._tops))
        if self._bits > 64:
            self._lows.append(first & _HALF)
            self._tops.append(first >> 64)
        else:
            self._tops.append(first)
        self._lengths.append(length)
        self._ends.append(end)

    def put(self, first: int, length: int, end: float) -> None:
        index = self._last_up_to(first)
        while index >= 0 and self._lengths[index] >= length:
            if self._lengths[index] == length and self._first(index) == first:
                self._ends[index] = end
                return
            index = self._parents[index]
        self._added.setdefault(length, {})[first >> (self._bits - length)] = end

    def _last_up_to(self, address: int) -> int:
        """Return the index of the last block that begins at or before the address, or -1."""
        if self._bits <= 64:
            return bisect_right(self._tops, address) - 1
        top, tops = address >> 64, self._tops
        end = bisect_right(tops, top)
        if not end or tops[end - 1] != top:
            return end - 1
        # Few blocks are smaller than a /64, and share the upper half of their address.
        start = end - 1
        if start and tops[start - 1] == top:
            start = bisect_left(tops, top, 0, end)
        return bisect_right(self._lows, address & _HALF, start, end) - 1

    def _contains(self, index: int, address: int) -> bool:
        return (self._first(index) ^ address) >> (self._bits - self._lengths[index]) == 0

    def _first(self, index: int) -> int:
        top = self._tops[index]
        return top << 64 | self._lows[index] if self._bits > 64 else top
