"""What is counted of two views' tokens and cells, given every token's cosine with every other.

Compiled: each table of cosines is looked at twice, and no table beside it is made. Letters: N and
K tokens of the two views, A and B their cells, T thresholds.
"""

import numpy as np
from jaxtyping import Float, Float64, Int

from vega3d.pipeline.compiled import compiled


@compiled
def bin_of(cosine: float, margin: float, bins: int) -> np.int64:
    """Return the histogram bin of a cosine, rising: equal bins of the distance on the sphere.

    Those are finer near 1, where the cosines of features with a common offset crowd.

    Args:
        cosine: Of two tokens.
        margin: Cosines so far below 1 are taken for 1.
        bins: How many there are.
    """
    chord = np.sqrt(max(2.0 * (1.0 - margin - cosine), 0.0))
    return max(np.int64(bins - 1) - np.int64(chord * (bins / 2)), np.int64(0))


@compiled
def raw_of_centred(
    cosine: Float[np.ndarray, "N K"],
    lengths: tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " K"]],
    along: tuple[Float64[np.ndarray, " N"], Float64[np.ndarray, " K"]],
    out: Float[np.ndarray, "N K"],
) -> None:
    """Write the cosines of tokens before their mean m was taken off.

    Args:
        cosine: Of the tokens u - m.
        lengths: |u - m|.
        along: (u - m/2) m, so that u v = |u - m| |v - m| cosine + the two of these.
        out: Where they are written; no less exact than a product of the tokens themselves.
    """
    for n in range(cosine.shape[0]):
        for k in range(cosine.shape[1]):
            out[n, k] = lengths[0][n] * lengths[1][k] * cosine[n, k] + (along[0][n] + along[1][k])


@compiled
def add_to_histograms(
    cosine: Float[np.ndarray, "N K"],
    first: tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " starts"], Int[np.ndarray, " A"]],
    second: tuple[Int[np.ndarray, " tokens"], Int[np.ndarray, " starts"], Int[np.ndarray, " B"]],
    scales: tuple[Float64[np.ndarray, " A"], Float64[np.ndarray, " B"]],
    margin: float,
    every: Int[np.ndarray, " bins"],
    matched: Int[np.ndarray, " bins"],
) -> None:
    """Count the cosines of all pairs of cells, and those of one voxel once more.

    Args:
        cosine: Of the tokens.
        first: Tokens of the first view's cells, where each cell begins among them (the end is the
            last), and the cells' voxels, rising.
        second: The same of the second view.
        scales: One over the length of the sum of each cell's tokens; 0 where it has none.
        margin: Cosines this close to 1 are in the last bin.
        every: Counts to be added to.
        matched: The same.
    """
    bins = len(every)
    row = np.empty(cosine.shape[1])
    place = np.empty(len(second[2]), np.int64)
    other = 0
    for a in range(len(first[2])):
        row[:] = 0.0
        for n in range(first[1][a], first[1][a + 1]):
            of_token = cosine[first[0][n]]
            for k in range(len(row)):
                row[k] += of_token[k] * scales[0][a]
        for b in range(len(second[2])):
            value = 0.0
            for k in range(second[1][b], second[1][b + 1]):
                value += row[second[0][k]]
            place[b] = bin_of(value * scales[1][b], margin, bins)
        for b in range(len(second[2])):
            every[place[b]] += 1
        while other < len(second[2]) and second[2][other] < first[2][a]:
            other += 1
        if other < len(second[2]) and second[2][other] == first[2][a]:
            matched[place[other]] += 1


@compiled
def near_counts(
    first: Float64[np.ndarray, "N 3"],
    second: Float64[np.ndarray, "K 3"],
    squared_m: Float64[np.ndarray, " T"],
) -> tuple[Int[np.ndarray, "T N"], Int[np.ndarray, "T K"]]:
    """Count, for each token, the other view's tokens within each threshold."""
    of_first = np.zeros((len(squared_m), len(first)), np.int64)
    of_second = np.zeros((len(squared_m), len(second)), np.int64)
    largest = squared_m.max()
    for n in range(len(first)):
        for k in range(len(second)):
            squared = 0.0
            for axis in range(3):
                apart = first[n, axis] - second[k, axis]
                squared += apart * apart
            if squared <= largest:
                for t in range(len(squared_m)):
                    if squared <= squared_m[t]:
                        of_first[t, n] += 1
                        of_second[t, k] += 1
    return of_first, of_second


@compiled
def nearest_both_ways(
    cosine: Float[np.ndarray, "N K"],
) -> tuple[Int[np.ndarray, " N"], Int[np.ndarray, " K"]]:
    """Return each token's most alike one of the other view; the first where several are."""
    best = np.zeros(cosine.shape[0], np.int64)
    back = np.zeros(cosine.shape[1], np.int64)
    highest = cosine[0].copy()
    for n in range(cosine.shape[0]):
        row = cosine[n]
        top = row[0]
        for k in range(len(row)):
            if row[k] > top:
                top = row[k]
                best[n] = k
            if row[k] > highest[k]:
                highest[k] = row[k]
                back[k] = n
    return best, back


@compiled
def right_counts(
    match: Int[np.ndarray, " N"],
    back: Int[np.ndarray, " K"],
    xyz: Float64[np.ndarray, "N 3"],
    there: Float64[np.ndarray, "K 3"],
    squared_m: Float64[np.ndarray, " T"],
) -> Float64[np.ndarray, "T 3"]:
    """Count matches within each threshold, mutual ones, and those that are both.

    Args:
        match: Of each token, the other view's.
        back: Of each of those, a token of this view.
        xyz: Where the tokens are, metres.
        there: Where the other view's are.
        squared_m: Thresholds.
    """
    counts = np.zeros((len(squared_m), 3))
    for n in range(len(match)):
        squared = 0.0
        for axis in range(3):
            apart = xyz[n, axis] - there[match[n], axis]
            squared += apart * apart
        mutual = back[match[n]] == n
        for t in range(len(squared_m)):
            right = squared <= squared_m[t]
            counts[t, 0] += right
            counts[t, 1] += mutual
            counts[t, 2] += right and mutual
    return counts
