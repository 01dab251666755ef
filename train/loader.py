"""Batches of aligned tokens, read ahead by threads, in an order that the caller decides.

Every batch in flight has a buffer of its own that is used again and again: features are read from
disk straight into it (pinned where the batch goes to a GPU), so nothing is copied on the way. A
batch on the CPU is therefore valid only until a later one is asked for. Threads are enough: reading
leaves the interpreter's lock, and the rest of a batch is small.

Letters: B samples, V views of a sample, N tokens of a view, C channels.
"""

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue

import torch
from torch import Tensor

from vega3d.train.acted import Acted
from vega3d.train.acting import ActionTable
from vega3d.train.asked import Asked
from vega3d.train.batch import Batch
from vega3d.train.chunks import bytes_of, page_aligned
from vega3d.train.config import KeepFeatures
from vega3d.train.geometry import GeometryTable
from vega3d.train.kept import KeptFeatures, keeps, size_bytes
from vega3d.train.order import Sample
from vega3d.train.pairing import Pairing
from vega3d.train.questions import QuestionTable
from vega3d.train.randomness import seed_of
from vega3d.train.streams import FeatureCache, streams_of


@dataclass(frozen=True)
class _Slot:
    """The buffers of one batch in flight."""

    gen: Tensor
    sem: Tensor
    gen_views: Sequence[memoryview]
    sem_views: Sequence[memoryview]
    """The same memory, view by view of each sample."""


class Loader:
    """Turns lists of samples into batches."""

    def __init__(
        self,
        pairing: Pairing,
        *,
        min_depth_share: float,
        seed: int = 0,
        workers: int = 2,
        prefetch: int = 4,
        cache: FeatureCache | None = None,
        device: torch.device | str = "cpu",
        questions: QuestionTable | ActionTable | None = None,
        kept: KeptFeatures | None = None,
    ) -> None:
        """Open both streams; no feature is read yet.

        Args:
            pairing: The aligned stores.
            min_depth_share: Tokens with less of their pixels measured have no depth.
            seed: Of the batches' per-view seeds.
            workers: Threads; 0 reads in the caller's.
            prefetch: Batches read ahead at most.
            cache: Shared by loaders of the same stores; None keeps nothing.
            device: Where batches go; with `cuda` by way of pinned buffers.
            questions: What annotated tasks ask of the scenes, or what was done in them.
            kept: Features on the same device: batches are made of these, and nothing is streamed.
        """
        if workers < 0 or (workers and prefetch < 1):
            raise ValueError(
                f"a loader needs 0 or more workers, and with any a prefetch of 1 or more; got "
                f"{workers} and {prefetch}"
            )
        self._pairing, self._kept = pairing, kept
        self._gen, self._sem = streams_of(pairing, cache)
        self._table = pairing.table(min_depth_share)
        self._seed = seed
        self._questions = questions
        self._workers = workers
        self._prefetch = prefetch if workers else 0
        self._device = torch.device(device)
        self._slots: dict[tuple[int, int], list[_Slot]] = {}

    def batches(
        self, requests: Iterable[Sequence[Sample]], *, hold: int = 1
    ) -> Generator[Batch, None, None]:
        """Yield the batch of every request, in order.

        A batch is valid until `hold` more are asked for: with 1, until the next.
        """
        held: deque[_Slot] = deque()
        for slot, batch in self._filled(iter(requests)):
            held.append(slot)
            yield batch if self._device.type == "cpu" else batch.to(self._device)
            if len(held) == hold:
                if self._kept is None and self._device.type == "cuda":
                    torch.cuda.current_stream(self._device).synchronize()
                self._give_slot(held.popleft())

    def _filled(self, requests: Iterator[Sequence[Sample]]) -> Iterator[tuple[_Slot, Batch]]:
        if not self._workers:
            for request in requests:
                slot = self._take_slot(request)
                yield slot, self._fill(slot, request)
            return
        threads = _Threads(self._fill, self._workers)
        try:
            waiting: deque[tuple[_Slot, _Reply]] = deque()
            while True:
                for request in islice(requests, self._prefetch - len(waiting)):
                    slot = self._take_slot(request)
                    waiting.append((slot, threads.begin(slot, request)))
                if not waiting:
                    return
                slot, reply = waiting.popleft()
                yield slot, _result(reply)
        finally:
            threads.close()

    def _take_slot(self, request: Sequence[Sample]) -> _Slot:
        size = (len(request), len(request[0].views)) if self._kept is None else (0, 0)
        free = self._slots.setdefault(size, [])
        return free.pop() if free else self._new_slot(*size)

    def _give_slot(self, slot: _Slot) -> None:
        self._slots[(slot.gen.shape[0], slot.gen.shape[1])].append(slot)

    def _new_slot(self, samples: int, views: int) -> _Slot:
        tokens = self._pairing.grid[0] * self._pairing.grid[1]
        shapes = [(samples, views, tokens, s.num_channels) for s in (self._gen, self._sem)]
        buffers = [
            torch.from_numpy(page_aligned(shape, stream.dtype))
            for shape, stream in zip(shapes, (self._gen, self._sem), strict=True)
        ]
        if self._device.type == "cuda" and samples:
            buffers = [buffer.pin_memory() for buffer in buffers]
        gen_views, sem_views = (
            [bytes_of(view) for sample in buffer.numpy() for view in sample] for buffer in buffers
        )
        return _Slot(buffers[0], buffers[1], gen_views, sem_views)

    def _fill(self, slot: _Slot, request: Sequence[Sample]) -> Batch:
        """Read a batch; as soon as a view is not in memory, ask the disk for all that follow."""
        if self._kept is not None:
            names = [sample.scene_id for sample in request]
            gen, sem = self._kept.take(names, [sample.views for sample in request])
            batch = aligned_batch(self._table, request, self._seed, gen, sem, self._questions)
            return batch.to(self._device)
        views = [(sample.scene_id, view) for sample in request for view in sample.views]
        wanted = [(stream, *place) for stream in (self._gen, self._sem) for place in views]
        asked = False
        for k, out in enumerate((*slot.gen_views, *slot.sem_views)):
            stream, scene_id, view = wanted[k]
            if not stream.read_into(scene_id, view, out) and not asked:
                asked = True
                for later, its_scene, its_view in wanted[k + 1 :]:
                    later.expect(its_scene, its_view)
        return aligned_batch(self._table, request, self._seed, slot.gen, slot.sem, self._questions)


def kept_features(
    pairing: Pairing, wish: KeepFeatures, device: torch.device
) -> KeptFeatures | None:
    """Return memory for all features on a device where they are to be kept there."""
    streams = streams_of(pairing)
    num_views = {name: len(pairing.prior.view_ids(name)) for name in pairing.scene_ids}
    tokens = pairing.grid[0] * pairing.grid[1]
    if not keeps(wish, size_bytes(streams, num_views, tokens), device):
        return None
    return KeptFeatures(streams, num_views, tokens, device)


class _Threads:
    """Threads that fill slots. Futures would take a tenth of the loader's speed in Python."""

    def __init__(self, fill: Callable[[_Slot, Sequence[Sample]], Batch], count: int) -> None:
        """Start them."""
        self._fill = fill
        self._jobs: SimpleQueue[tuple[_Slot, Sequence[Sample], _Reply] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"vega3d-loader-{k}", daemon=True)
            for k in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def begin(self, slot: _Slot, request: Sequence[Sample]) -> "_Reply":
        """Return at once where the batch, or what went wrong, will be put."""
        reply: _Reply = SimpleQueue()
        self._jobs.put((slot, request, reply))
        return reply

    def close(self) -> None:
        """Finish what was begun, and nothing that waits."""
        with contextlib.suppress(Empty):
            while True:
                self._jobs.get_nowait()
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            slot, request, reply = job
            try:
                reply.put(self._fill(slot, request))
            except Exception as error:  # raised again in the thread that waits for the batch
                reply.put(error)


_Reply = SimpleQueue[Batch | Exception]


def _result(reply: _Reply) -> Batch:
    found = reply.get()
    if isinstance(found, Exception):
        raise found
    return found


def aligned_batch(
    table: GeometryTable,
    request: Sequence[Sample],
    seed: int,
    gen: Tensor,
    sem: Tensor,
    questions: QuestionTable | ActionTable | None = None,
) -> Batch:
    """Return the batch of a request whose features are these; the rest comes from the table."""
    views = [list(sample.views) for sample in request]
    rows = table.rows([sample.scene_id for sample in request], views)
    found = {name: torch.from_numpy(array) for name, array in table.take(rows).items()}
    asked = torch.tensor([s.asked or (True,) * len(s.views) for s in request])
    about: dict[str, Asked | Acted] = {}
    if questions is not None:
        about.update(questions.asked(request, seed))
    return Batch(
        scene_ids=tuple(sample.scene_id for sample in request),
        views=torch.tensor(views),
        gen=gen,
        sem=sem,
        valid=found["valid"],
        xyz_world=found["xyz_world"],
        xyz_camera=found["xyz_camera"],
        asked=asked,
        has_depth=found["has_depth"],
        world_from_camera=found["world_from_camera"],
        seeds=torch.tensor(
            [[seed_of(seed, s.epoch, s.scene_id, v) for v in s.views] for s in request]
        ),
        labels=found.get("labels"),
        questions=about or None,
    )
