"""Which features stay on the device, and memory for them there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from taemi_runtime.contract import FUSION
from taemi_runtime.device_array import DeviceArray, Pool
from taemi_runtime.engine import say_by_host
from taemi_runtime.errors import EngineError
from taemi_runtime.loading import LoadedModel
from taemi_runtime.resident import Piece
from taemi_runtime.spec import Array, InputSpec, OutputSpec

_STEP_ROWS = 64


class FeatureRooms:
    """Runs encoders so that their features stay where the fusion engine takes them from, or come to the host.

    Args:
        model: The model; engines are opened when they are first needed.
        text_name: The fusion graph's input for text.
        max_frames: Frames that are seen of a clip at most.
        resident: Whether anything stays on a device.
    """

    def __init__(self, model: LoadedModel, text_name: str, max_frames: int, *, resident: bool) -> None:
        self._model = model
        self._text_name = text_name
        self._max_frames = max_frames
        self._resident = resident
        self._inputs = {item.name: item for item in model.manifest.graphs[FUSION].inputs}

    def pool(self, graph: str) -> Pool | None:
        """Return what lends memory for an encoder's features; ``None`` where they go by the host."""
        engine = self._model.engine(graph)
        if not self._resident or engine.pool is None:
            return None
        fusion, name = self._model.engine(FUSION), self.input(graph).name
        dtype = engine.dtype_of(self.output(graph))
        if why := fusion.why_not_from(name, dtype, {engine.pool.device}):
            say_by_host(f"{FUSION}.{name}", why)
            return None
        return engine.pool

    def room(self, graph: str, rows: int = 0) -> DeviceArray | None:
        """Return an array on the device for what an encoder gives of one clip.

        It has room for as much as the fusion engine takes, whatever is asked for, so that its memory serves
        every clip.

        Args:
            graph: The encoder.
            rows: How many rows are needed at least.

        Returns:
            [rows, width], where ``rows`` is 0 as many as there are; ``None`` where features go by the host.
        """
        pool = self.pool(graph)
        if pool is None:
            return None
        fusion, output, target = self._model.engine(FUSION), self.output(graph), self.input(graph)
        width, most = int(output.shape[-1]), rows
        shape = target.shape
        if len(shape) > 2:
            axis = shape[1]
            longest = axis if isinstance(axis, int) else fusion.info.limits.get(axis, 0)
            # Without a limit lengths are rounded up, so that few sizes of memory serve all clips.
            most = max(rows, longest or -(-rows // _STEP_ROWS) * _STEP_ROWS)
        if graph == "vision":
            most = max(most, self._max_frames)
        try:
            found = pool.take((most, width), self._model.engine(graph).dtype_of(output))
        except EngineError as error:
            say_by_host(f"{FUSION}.{target.name}", error.found or str(error))
            return None
        return found.head(rows) if rows else found

    def output(self, graph: str) -> OutputSpec:
        """Return the output of an encoder that the fusion graph takes."""
        outputs = self._model.engine(graph).spec.outputs
        return next((item for item in outputs if item.name == self.input(graph).name), outputs[0])

    def input(self, graph: str) -> InputSpec:
        """Return the fusion graph's input that an encoder's features are for."""
        return self._inputs[self._text_name if graph == "text" else graph]

    def encode(
        self, graph: str, feeds: dict[str, Array], lengths: Sequence[int]
    ) -> list[DeviceArray] | Array:
        """Run an encoder for several clips.

        Args:
            graph: The encoder.
            feeds: Its inputs, one entry of axis 0 a clip.
            lengths: Rows of its output that are wanted of each.

        Returns:
            An array on the device for each clip, or the whole output on the host.
        """
        engine, output = self._model.engine(graph), self.output(graph)
        rooms: list[DeviceArray] = []
        try:
            for length in lengths:
                room = self.room(graph, length)
                if room is None:
                    break
                rooms.append(room)
            if len(rooms) == len(lengths):
                flat = len(output.shape) < 3
                pieces = [
                    Piece(room, row if flat else 0, length, 0 if flat else row)
                    for row, (room, length) in enumerate(zip(rooms, lengths, strict=True))
                ]
                self.keep(graph, feeds, pieces)
                return rooms
        except BaseException:
            _close(rooms)
            raise
        _close(rooms)
        return engine.run(feeds)[output.name]

    def keep(self, graph: str, feeds: Mapping[str, Array], pieces: Sequence[Piece]) -> None:
        """Run an encoder, and leave its features on the device.

        Args:
            graph: The encoder.
            feeds: Its inputs.
            pieces: Where its features go.

        Raises:
            EngineError: The engine failed.
        """
        engine = self._model.engine(graph)
        # What else the encoder gives is not wanted anywhere.
        nothing: dict[str, Sequence[Piece]] = {item.name: () for item in engine.spec.outputs}
        engine.run(feeds, keep={**nothing, self.output(graph).name: pieces})


def _close(rooms: Sequence[DeviceArray]) -> None:
    for room in rooms:
        room.close()
