"""A run of the task `action` as a policy: frames in, actions out, with extraction online.

Letters: V cameras, N tokens of a view, K actions of a chunk, A numbers of an action.
"""

import time
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor

from vega3d.pipeline.backbones.text import embed_texts
from vega3d.pipeline.errors import UsageError
from vega3d.pipeline.scenes.episodes import view_id
from vega3d.train.acted import Acted
from vega3d.train.batch import Batch
from vega3d.train.checkpoint import load_weights
from vega3d.train.demonstrations.bounds import Bounds
from vega3d.train.robots.encoding import ViewEncoder
from vega3d.train.robots.simulator import Observation
from vega3d.train.rundir import read_record, recorded_config, recorded_model

Weights = Literal["last", "best", "untrained"]


class Policy:
    """What a run learned to do."""

    def __init__(
        self,
        run_dir: str | Path,
        weights: Weights = "last",
        device: Literal["cpu", "cuda"] = "cpu",
    ) -> None:
        """Load weights and encoders.

        Args:
            run_dir: Folder of the run.
            weights: `untrained` keeps the first weights, to compare with.
            device: Where encoders and model run.

        Raises:
            UsageError: The folder holds no run of the task action, or its encoders cannot be had.
        """
        self.record = read_record(Path(run_dir))
        if "policy" not in self.record:
            raise UsageError(f"{run_dir} is no run of the task action: it cannot act")
        told, stores = self.record["policy"], self.record["identity"]["stores"]
        config = recorded_config(self.record)
        self.cameras = tuple(str(name) for name in told["cameras"])
        rows, cols = told["image_size"] or (128, 128)  # none is known of imported features
        self.image_size = (int(rows), int(cols))
        self.chunk, self.action_dim = config.action_chunk, config.action_dim
        self._actions = Bounds.from_json(told["actions"])
        self._states = Bounds.from_json(told["states"]) if told["states"] else None
        self._text_model, self._texts = told["text_model"], dict[str, Tensor]()
        self._device = torch.device(device)
        self._model = recorded_model(self.record)
        if weights != "untrained":
            path = Path(run_dir) / f"{weights}.safetensors"
            load_weights(path, self._model, self.record["identity"])
        else:
            _set_statistics(self._model, Path(run_dir), self.record)
        self._model.to(self._device).eval()
        self.encoders = {
            name: ViewEncoder(told["encoders"][name], stores[name]["tap"], device)
            for name in ("prior", "semantic")
        }
        self.seconds: dict[str, list[float]] = {"encode": [], "decide": []}

    @torch.no_grad()
    def act(
        self, seen: Observation, text: str, *, scene_id: str, frame: int
    ) -> Float32[np.ndarray, "K A"]:
        """Return the next actions, in the demonstrations' units.

        Args:
            seen: What the cameras and the robot say.
            text: What is to be done; embedded once.
            scene_id: The episode's name, which enters the generator's noise.
            frame: Number of the frame, likewise.

        Raises:
            UsageError: A camera is missing, or the robot's state has another size.
        """
        began = time.perf_counter()
        batch = self._batch(seen, text, scene_id, frame).to(self._device)
        encoded = time.perf_counter()
        predictions, _ = self._model(batch, self._model.targets(batch))
        actions = self._actions.restored(predictions["action"][0].cpu().numpy())
        self.seconds["encode"].append(encoded - began)
        self.seconds["decide"].append(time.perf_counter() - encoded)
        return actions

    def _batch(self, seen: Observation, text: str, scene_id: str, frame: int) -> Batch:
        if missing := [name for name in self.cameras if name not in seen.images]:
            raise UsageError(f"the policy looks through {missing}, there is {list(seen.images)}")
        found: dict[str, list[Any]] = {"prior": [], "semantic": []}
        for camera in self.cameras:  # one view at a time
            for name, encoder in self.encoders.items():
                name_of_view = view_id(camera, frame)
                tokens = encoder.tokens(
                    seen.images[camera], scene_id=scene_id, view_id=name_of_view
                )
                found[name].append(tokens)
        gen, sem = (torch.stack([one[0] for one in each])[None] for each in found.values())
        prior, semantic = (torch.stack([one[1] for one in each])[None] for each in found.values())
        shape = gen.shape[:3]
        nowhere = torch.full((*shape, 3), torch.nan)
        return Batch(
            scene_ids=(scene_id,),
            views=torch.arange(shape[1])[None],
            gen=gen,
            sem=sem,
            valid=prior & semantic,
            xyz_world=nowhere,
            xyz_camera=nowhere,
            asked=torch.ones(shape[:2], dtype=torch.bool),
            has_depth=torch.zeros(shape, dtype=torch.bool),
            world_from_camera=torch.full((*shape[:2], 4, 4), torch.nan),
            seeds=torch.zeros(shape[:2], dtype=torch.int64),
            questions={"action": self._acted(seen, text)},
        )

    def _acted(self, seen: Observation, text: str) -> Acted:
        if text not in self._texts:
            vector = embed_texts(self._text_model, [text])
            self._texts[text] = torch.from_numpy(vector.astype(np.float32))
        state = seen.proprio[:0]
        if self._states is not None:
            if len(seen.proprio) != len(self._states.q01):
                raise UsageError(
                    f"the policy knows states of {len(self._states.q01)} numbers, this robot's has "
                    f"{len(seen.proprio)}"
                )
            state = self._states.normalised(seen.proprio)
        return Acted(
            chunk=torch.zeros(1, self.chunk, self.action_dim),
            there=torch.ones(1, self.chunk, dtype=torch.bool),
            proprio=torch.from_numpy(state.astype(np.float32))[None],
            text=self._texts[text],
        )


def _set_statistics(model: Any, run_dir: Path, record: dict[str, Any]) -> None:  # noqa: ANN401
    """Give untrained weights the trained ones' statistics of channels, which are not learned."""
    trained = recorded_model(record)
    load_weights(run_dir / "last.safetensors", trained, record["identity"])
    for name in ("standardize_gen", "standardize_sem"):
        getattr(model, name).load_state_dict(getattr(trained, name).state_dict())
