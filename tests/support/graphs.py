"""Graphs, and their components by a plain search."""

from itertools import pairwise

from hypothesis import strategies as st

MOST = 1200  # positions, of several blocks of the bitmap


def plainly(edges: list[tuple[int, int]], size: int) -> tuple[dict[int, int], list[int]]:
    """The batch of each position with an edge, and the positions of each batch."""
    component = {end: {end} for edge in edges for end in edge}
    for one, other in edges:
        joined = component[one] | component[other]
        component.update((position, joined) for position in joined)
    batch, counts = {}, [0]
    for smallest in sorted({min(joined) for joined in component.values()}):
        if counts[-1] >= size:
            counts.append(0)
        batch.update((position, len(counts) - 1) for position in component[smallest])
        counts[-1] += len(component[smallest])
    return batch, counts if batch else []


@st.composite
def graphs(draw) -> list[tuple[int, int]]:
    """Single edges, chains, cliques and stars."""
    positions = st.integers(0, MOST - 1)
    edges = []
    for kind in draw(st.lists(st.sampled_from(["edge", "chain", "clique", "star"]), max_size=6)):
        count = 2 if kind == "edge" else draw(st.integers(3, 30))
        of = draw(st.lists(positions, min_size=count, max_size=count, unique=True))
        edges += {
            "chain": list(pairwise(of)),
            "clique": [(one, other) for at, one in enumerate(of) for other in of[at + 1 :]],
        }.get(kind, [(of[0], other) for other in of[1:]])
    return edges
