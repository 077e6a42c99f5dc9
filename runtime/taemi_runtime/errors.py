"""The errors that users see.

Every message has three parts: what was asked, what was found, and what to do about it. A caller
that embeds the toolkit can catch [TaemiError][] and read the parts; the command line prints them
and keeps the traceback for ``--debug``.
"""


class TaemiError(Exception):
    """Base of every error that taemi raises on purpose.

    Args:
        asked: What was attempted, e.g. ``"cannot read clip.mp4"``. No full stop at the end.
        found: What stood in the way, with the values met (got and expected).
        fix: What to do, with the exact command where there is one.
    """

    def __init__(self, asked: str, found: str = "", fix: str = "") -> None:
        self.asked = asked
        self.found = found
        self.fix = fix
        head = f"{asked}: {found}" if found else asked
        super().__init__(f"{head}. {fix}" if fix else head)

    def __reduce__(self) -> tuple[type["TaemiError"], tuple[str, str, str]]:
        # The default would call the constructor with the joined message when crossing a process.
        return type(self), (self.asked, self.found, self.fix)


class UsageError(TaemiError):
    """The command line or a call's arguments make no sense (exit code 2)."""


class MissingExtraError(TaemiError):
    """A package that this step needs is not installed; the fix names the extra."""


class DeviceError(TaemiError):
    """The device that was asked for cannot be used on this host."""


class WriteError(TaemiError):
    """A file or folder could not be written; what stood there before is whole."""


class MediaError(TaemiError):
    """A file could not be read as media."""


class SpecError(TaemiError):
    """A GraphSpec, manifest or config contradicts itself."""


class InputError(TaemiError):
    """Arrays given to a graph do not fit its GraphSpec."""


class BundleError(TaemiError):
    """A bundle is damaged, incomplete, foreign, or of another schema."""


class EngineError(TaemiError):
    """A backend could not load or run a graph."""


class CheckpointError(TaemiError):
    """A checkpoint could not be read or does not hold what was asked of it."""


class DataError(TaemiError):
    """A corpus or feature store is not what training or evaluation needs."""


class ExportError(TaemiError):
    """A graph could not be exported, or the exported graph breaks a rule."""


class ParityError(TaemiError):
    """An engine's numbers differ from PyTorch's by more than its gate allows."""
