"""From a decoded clip to the fusion graph's inputs: each modality through its encoder, or marked missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from taemi_runtime.clip_features import ClipFeatures, Encoded, Features
from taemi_runtime.contract import FUSION, PRESENT, text_input
from taemi_runtime.device_array import DeviceArray
from taemi_runtime.engine import Engine
from taemi_runtime.feature_rooms import FeatureRooms
from taemi_runtime.host import cuda_driver, parse_device
from taemi_runtime.loading import LoadedModel
from taemi_runtime.media import Clip
from taemi_runtime.preprocessing import Preprocessing
from taemi_runtime.resident import DeviceRows, Given, Piece, device_inputs, host_inputs
from taemi_runtime.results import AudioUse, TextUse, VisionUse
from taemi_runtime.spec import Array, InputSpec
from taemi_runtime.tokens import Tokenizer
from taemi_runtime.transcripts import Transcript
from taemi_runtime.waveform import prepare_waveform

FRAMES_A_CALL = {"cpu": 4, "cuda": 16}
"""Frames a call of the vision encoder, by the device. Every way to score a clip cuts it at the same places,
so that results never depend on timing. On a CPU a few frames' activations stay within the caches: a frame of
ViT-B/16 took 40 ms in calls of 4 and 47 ms in calls of 16 (int8, two cores; 106 and 117 ms in float32). A GPU
wants more at a time, and its memory an end to them: a clip has up to 400."""


class ClipEncoder:
    """Runs a model's encoders, and adds what they give to the fusion graph's inputs.

    Args:
        model: The model; engines are opened when they are first needed.
        preprocessing: What stands between a clip and the encoders.
        resident: Whether features stay on the device where the fusion engine takes them from there; who gets
            them closes them.

    Raises:
        BundleError: The fusion graph takes text in a form that this version does not know.
    """

    def __init__(self, model: LoadedModel, preprocessing: Preprocessing, *, resident: bool = False) -> None:
        self._model = model
        self._preprocessing = preprocessing
        fusion = model.manifest.graphs[FUSION]
        self._inputs = {item.name: item for item in fusion.inputs}
        self._text_name = text_input(fusion, model.path)
        self.rooms = FeatureRooms(model, self._text_name, preprocessing.vision.max_frames, resident=resident)
        self._tokenizer: Tokenizer | None = None
        kind, _ = parse_device(model.options.device)
        self.frames_a_call = FRAMES_A_CALL["cpu" if kind == "cpu" or cuda_driver().why else "cuda"]

    def audio(self, clip: Clip, feeds: dict[str, Given]) -> AudioUse:
        """Add ``audio`` and ``audio_mask``; a missing one is a frame of zeros."""
        heard = None
        if clip.waveform is not None and clip.waveform.size:
            (heard,) = self.hear([clip.waveform])
        return self.put_audio(clip, heard, feeds)

    def text(self, said: Transcript, feeds: dict[str, Given]) -> TextUse:
        """Add ``text``, or ``text_tokens`` and ``text_mask``; missing ones are zeros."""
        read = None
        if said.text is not None and is_said(said.text):
            (read,) = self.read([said.text])
        return self.put_text(said, read, feeds)

    def open(self, graph: str) -> None:
        """Open what an encoder needs, so that no clip's time has a part of it.

        Raises:
            TaemiError: It cannot be opened.
        """
        self.rooms.pool(graph)

    def calls_at_a_time(self, graph: str) -> int:
        """Return how many calls of an encoder are worth having under way; see ``Engine.calls_at_a_time``."""
        return self._model.engine(graph).calls_at_a_time

    def hear(self, waveforms: Sequence[npt.NDArray[np.float32]]) -> list[Encoded]:
        """Encode waveforms in one call.

        Args:
            waveforms: [samples] each, float32, mono, not normalised, at least one of them; shorter ones are
                filled up with zeros behind their mask, which a masked encoder does not notice.

        Returns:
            For each [1, frames, width] float32, or [frames, width] on the device, and [1, frames] bool, at
            its own length.

        Raises:
            InputError: A waveform is empty or not finite.
            EngineError: The engine failed.
        """
        prepared = [prepare_waveform(waveform, self._preprocessing.audio) for waveform in waveforms]
        feeds = {name: _stack([item[name] for item in prepared]) for name in prepared[0]}
        masks = [item["frame_mask"] for item in prepared]
        found = self.rooms.encode("audio", feeds, [mask.shape[1] for mask in masks])
        if isinstance(found, list):
            return list(zip(found, masks, strict=True))
        return [(found[row : row + 1, : mask.shape[1]], mask) for row, mask in enumerate(masks)]

    def in_calls(self, frames: Array) -> Iterator[Array]:
        """Cut frames into parts for one call of the vision encoder each, in order."""
        for start in range(0, len(frames), self.frames_a_call):
            yield frames[start : start + self.frames_a_call]

    def see(self, pixels: Array) -> Array:
        """Encode frames in one call.

        Args:
            pixels: [frames, 3, height, width] uint8, at most ``frames_a_call`` where memory matters.

        Returns:
            [frames, width] float32.

        Raises:
            EngineError: The engine failed.
        """
        engine = self._model.engine("vision")
        return engine.run({"pixels": pixels})[engine.spec.outputs[0].name]

    def see_into(self, pixels: Array, pieces: list[Piece]) -> None:
        """Encode frames in one call, and leave their features on the device.

        Args:
            pixels: As for ``see``.
            pieces: Where they go.

        Raises:
            EngineError: The engine failed.
        """
        self.rooms.keep("vision", {"pixels": pixels}, pieces)

    def read(self, texts: Sequence[str]) -> list[Encoded]:
        """Encode transcripts in one call.

        Args:
            texts: At least one, none of them blank.

        Returns:
            For each [1, width] float32, or [1, tokens, width] where the fusion graph takes a sequence (on the
            device [1, width] or [tokens, width]), and [1, tokens] bool.

        Raises:
            EngineError: The engine failed.
        """
        tokenizer, _ = self.text_parts()
        ids = tokenizer.encode(texts)
        rows = ids["attention_mask"].astype(bool)
        tokens = [int(np.count_nonzero(row)) for row in rows]
        masks = [row[None, :count] for row, count in zip(rows, tokens, strict=True)]
        flat = self._text_name == "text"
        found = self.rooms.encode("text", ids, [1] * len(tokens) if flat else tokens)
        if isinstance(found, list):
            return list(zip(found, masks, strict=True))
        return [
            (found[row : row + 1] if flat else found[row : row + 1, :count], mask)
            for row, (count, mask) in enumerate(zip(tokens, masks, strict=True))
        ]

    def gather(
        self,
        clip: Clip,
        said: Transcript,
        encoded: tuple[Encoded | None, Features | None, Encoded | None],
        spent_ms: dict[str, float],
    ) -> ClipFeatures:
        """Put what the encoders gave for a clip together.

        Args:
            clip: The clip.
            said: Its transcript.
            encoded: Its sound, its frames [frames, width] and its text; ``None`` where there is none.
            spent_ms: Milliseconds by stage.
        """
        feeds: dict[str, Given] = {}
        audio = self.put_audio(clip, encoded[0], feeds)
        vision = self.put_vision(clip, encoded[1], feeds)
        text = self.put_text(said, encoded[2], feeds)
        feeds[PRESENT] = np.array([[audio.present, vision.present, text.present]], dtype=np.bool_)
        warnings = said.warnings + self.tell_cut(text)
        return ClipFeatures(
            clip, host_inputs(feeds), audio, vision, text, spent_ms, warnings, device_inputs(feeds)
        )

    def put_audio(self, clip: Clip, heard: Encoded | None, feeds: dict[str, Given]) -> AudioUse:
        """Add an encoded waveform to the fusion graph's inputs; ``None`` is a missing one."""
        if heard is None:
            self._feed_sequence("audio", "audio_mask", None, None, feeds)
            return AudioUse(False, why=clip.audio_why or "the audio track is empty")
        self._feed_sequence("audio", "audio_mask", *heard, feeds)
        return AudioUse(True, int(np.count_nonzero(heard[1])), clip.audio_seconds, clip.audio_truncated)

    def put_vision(self, clip: Clip, seen: Features | None, feeds: dict[str, Given]) -> VisionUse:
        """Add encoded frames, [frames, width], to the fusion graph's inputs; ``None`` are missing ones."""
        faces = clip.faces
        found = faces.faces if faces is not None else None
        left_out = faces.frames - faces.faces if faces is not None else None
        if seen is None:
            self._feed_sequence("vision", "vision_mask", None, None, feeds)
            return VisionUse(
                False,
                faces=found,
                left_out=left_out,
                truncated=clip.vision_truncated,
                why=clip.vision_why or "the video track is empty",
            )
        frames = seen.shape[0]
        mask = np.ones((1, frames), dtype=bool)
        given = seen if isinstance(seen, DeviceArray) else seen[None]
        self._feed_sequence("vision", "vision_mask", given, mask, feeds)
        return VisionUse(True, frames, found, left_out, clip.vision_seconds, clip.vision_truncated)

    def put_text(self, said: Transcript, read: Encoded | None, feeds: dict[str, Given]) -> TextUse:
        """Add an encoded transcript to the fusion graph's inputs; ``None`` is a missing one."""
        name = self._text_name
        if read is None or said.text is None:
            if name == "text":
                feeds[name] = np.zeros((1, _width(self._inputs[name])), np.float32)
            else:
                self._feed_sequence(name, "text_mask", None, None, feeds)
            return TextUse(False, source=said.source, why=said.why or "the transcript is empty")
        features, mask = read
        if name == "text":
            feeds[name] = (
                DeviceRows.of(features, features.shape[1:]) if isinstance(features, DeviceArray) else features
            )
        else:
            self._feed_sequence(name, "text_mask", features, mask, feeds)
        return TextUse(True, int(np.count_nonzero(mask)), said.text, said.source)

    def _feed_sequence(
        self,
        name: str,
        mask_name: str,
        features: Features | None,
        mask: Array | None,
        feeds: dict[str, Given],
    ) -> None:
        """Add a sequence and its mask, padded where the graph has a fixed length.

        Args:
            name: The fusion graph's input, [1, length, width].
            mask_name: Its mask, [1, length].
            features: [1, frames, width] float32, or [frames, width] on the device; ``None`` is a missing
                modality: one frame of zeros.
            mask: [1, frames] bool.
            feeds: Where both go.
        """
        axis = self._inputs[name].shape[1]
        if features is None or mask is None:
            features = np.zeros((1, 1, _width(self._inputs[name])), np.float32)
            mask = np.ones((1, 1), dtype=bool)
        short = axis - mask.shape[1] if isinstance(axis, int) else 0
        if short > 0:
            mask = np.pad(mask, ((0, 0), (0, short)))
            if not isinstance(features, DeviceArray):
                features = np.pad(features, ((0, 0), (0, short), (0, 0)))
        if isinstance(features, DeviceArray):
            # Behind its rows anything may stand: the mask covers it.
            feeds[name] = DeviceRows.of(features, (mask.shape[1], features.shape[1]))
        else:
            feeds[name] = features
        feeds[mask_name] = mask

    def tell_cut(self, text: TextUse) -> tuple[str, ...]:
        """Say how much of a transcript is left out as too long, where something is."""
        longest = self._preprocessing.text.max_tokens
        if text.tokens is None or text.transcript is None or text.tokens < longest:
            return ()
        cut = self.text_parts()[0].cut(text.transcript)
        warning = f"of the transcript's tokens the first {longest} are used, {cut} are left out"
        return (warning,) if cut else ()

    def text_parts(self) -> tuple[Tokenizer, Engine]:
        """Return the tokenizer and the text encoder's engine, opened now at the latest."""
        if self._tokenizer is None:
            text = self._preprocessing.text
            self._tokenizer = Tokenizer.from_bytes(self._model.asset(text.tokenizer), text)
        return self._tokenizer, self._model.engine("text")


def is_said(transcript: str | None) -> bool:
    """Return whether there is a transcript that is not blank."""
    return transcript is not None and transcript.strip() != ""


def _stack(rows: Sequence[Array]) -> Array:
    """Join [1, length] rows of one dtype, zeros behind the shorter ones."""
    if len(rows) == 1:
        return rows[0]
    stacked = np.zeros((len(rows), max(row.shape[1] for row in rows)), rows[0].dtype)
    for target, row in zip(stacked, rows, strict=True):
        target[: row.shape[1]] = row[0]
    return stacked


def _width(item: InputSpec) -> int:
    return int(item.shape[-1])
