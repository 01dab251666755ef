"""CPU time of procedural rooms: drawing one, a depth image, a picture.

OMP_NUM_THREADS=1 python tests/benchmarks/bench_rooms.py        # 12 rooms of 128x160 px
pytest tests/benchmarks/bench_rooms.py                          # tiny
"""

import statistics
import time
from collections.abc import Callable

from vega3d.pipeline.scenes.rooms.film import film_room

VIEWS = 6


def spent_ms(work: Callable[[], object]) -> float:
    """Return the CPU milliseconds of a call."""
    begun = time.process_time()
    work()
    return 1e3 * (time.process_time() - begun)


def measure(rooms: int, height: int, width: int) -> dict[str, list[float]]:
    """Return milliseconds by kind of work, after one warm-up that compiles."""
    film_room((6, 0), 1, height, width).rgb(0)
    found: dict[str, list[float]] = {"room": [], "depth": [], "picture": []}
    for number in range(rooms):
        begun = time.process_time()
        film = film_room((5, number), VIEWS, height, width)
        found["room"].append(1e3 * (time.process_time() - begun))
        for view in range(VIEWS):
            found["depth"].append(spent_ms(lambda film=film, view=view: film.depth_m(view)))
            found["picture"].append(spent_ms(lambda film=film, view=view: film.rgb(view)))
    return found


def test_every_kind_of_work_is_timed() -> None:
    found = measure(1, 32, 48)
    assert [len(times) for times in found.values()] == [1, VIEWS, VIEWS]
    assert all(time_ms >= 0 for times in found.values() for time_ms in times)


if __name__ == "__main__":
    for kind, times in measure(12, 128, 160).items():
        low, _, high = statistics.quantiles(times, n=4)
        print(f"{kind}: median {statistics.median(times):.1f} ms, quartiles {low:.1f} {high:.1f}")
