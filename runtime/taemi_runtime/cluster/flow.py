"""The stages as a stream of Ray Data: tasks that read, actors that work, outcomes as they come."""

from __future__ import annotations

import logging
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from taemi_runtime.cluster.attempts import RemoteLedger, start_ledger
from taemi_runtime.cluster.session import Cluster
from taemi_runtime.cluster.shares import Shares
from taemi_runtime.cluster.stages import (
    Parcel,
    Place,
    Reader,
    ReadStage,
    Recipe,
    Source,
    WorkStage,
)
from taemi_runtime.errors import EngineError, TaemiError
from taemi_runtime.results import ClipFailure

if TYPE_CHECKING:
    import pyarrow as pa

_log = logging.getLogger(__name__)

# Each task reads the inputs of one block. A block is one input until there would be more blocks than this,
# as every one of them costs the driver some memory and a millisecond or two.
_MOST_BLOCKS = 4000
# Enough that a model has its next batch at hand, and no more, as batches are large.
_BATCHES_AT_A_MODEL = 2
# Ray Data repeats the work of dead processes and restarts its actors, by default for ever, which the ledger
# ends. A block that is lost for another reason is sent once more.
_ROUNDS = 2
_COLUMN = "parcel"
_TRIES = 3

Answer = TypeVar("Answer")


def run_stages(
    cluster: Cluster,
    shares: Shares,
    sources: Sequence[Source],
    reader: Reader,
    recipe: Recipe,
    *,
    debug: bool = False,
) -> Iterator[Parcel]:
    """Read inputs and work on them, and yield their outcomes in the order in which they are done.

    Args:
        cluster: A cluster that has been joined.
        shares: What each stage gets of it.
        sources: The inputs.
        reader: What reads them.
        recipe: What opens a model in each actor.
        debug: Whether workers log in detail.

    Yields:
        One parcel that is done for each input, exactly one.

    Raises:
        TaemiError: A model cannot be opened on a machine of the cluster.
    """
    ledger = start_ledger(cluster.here)
    place = Place(str(Path.cwd()), debug=debug, models=shares.models)
    told: set[object] = set()
    waiting = {source.index: source for source in sources}
    for _ in range(_ROUNDS):
        if not waiting:
            break
        for parcel in _stream(shares, list(waiting.values()), reader, recipe, ledger, place):
            for note in parcel.notes:
                if note not in told:
                    told.add(note)
                    _log.log(note.level, "%s", note.text)
            if isinstance(parcel.content, TaemiError):
                raise parcel.content
            # A block that Ray made twice, as its first copy was lost, counts once.
            if parcel.source is not None and waiting.pop(parcel.source.index, None) is not None:
                yield parcel
    deaths = ledger.deaths()
    if deaths:
        _log.warning("processes of the cluster died at work: %d piece(s) of it were begun again", deaths)
    for source in waiting.values():
        error = EngineError(
            f"cannot finish {source.name}", "the cluster lost it twice", "See Ray's log: --debug"
        )
        yield Parcel(source, ClipFailure(source.name, str(error)), done=True)


def ask_one(shares: Shares, question: Callable[[], Answer], *, debug: bool = False) -> Answer:
    """Ask something of a process with a model's share of the cluster.

    Args:
        shares: What such a process gets.
        question: What to ask; it is sent there.
        debug: Whether it logs in detail.

    Raises:
        TaemiError: The answer was one.
    """
    import ray

    place = Place(str(Path.cwd()), debug=debug)
    remote = ray.remote(num_cpus=shares.cpus, num_gpus=shares.gpus, max_retries=_TRIES)(_answer)
    found = ray.get(remote.remote(question, place))
    if isinstance(found, TaemiError):
        raise found
    answer: Answer = found
    return answer


def _answer(question: Callable[[], Any], place: Place) -> Any:
    place.enter()
    try:
        return question()
    except TaemiError as error:
        return error  # as it is: raised, Ray would wrap it


def _stream(
    shares: Shares,
    sources: Sequence[Source],
    reader: Reader,
    recipe: Recipe,
    ledger: RemoteLedger,
    place: Place,
) -> Iterator[Parcel]:
    import ray.data

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A block that cannot be made must not end the others; its inputs are missed here.
    context.max_errored_blocks = -1
    context.execution_options.preserve_order = False
    blocks = ray.data.from_items(
        [{_COLUMN: pickle.dumps(source)} for source in sources],
        override_num_blocks=min(len(sources), _MOST_BLOCKS),
    )
    # The stages ask for different shares: those that ask for the same are made one by Ray Data, and nothing
    # would be read while a model works.
    read = blocks.map_batches(
        _read,
        fn_kwargs={"stage": ReadStage(reader, ledger, place)},
        batch_size=None,
        batch_format="pyarrow",
        num_cpus=0,
        concurrency=shares.decoders,
    )
    worked = read.map_batches(
        _Work,
        fn_constructor_kwargs={"recipe": recipe, "ledger": ledger, "place": place},
        batch_size=shares.batch,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(
            size=shares.models, max_tasks_in_flight_per_actor=_BATCHES_AT_A_MODEL
        ),
        num_cpus=shares.cpus,
        num_gpus=shares.gpus,
    )
    for table in worked.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
        yield from _unpack(table)


def _read(table: pa.Table, stage: ReadStage) -> Iterator[pa.Table]:
    sources = [pickle.loads(item.as_buffer()) for item in table[_COLUMN]]
    for parcel in stage(sources):
        # One a block: a decoded clip is large.
        yield _pack([parcel])


class _Work:
    """A work stage in an actor."""

    def __init__(self, **settings: Any) -> None:
        import ray

        here = ray.util.get_node_ip_address()
        self._stage = WorkStage(**settings, node=here)

    def __call__(self, table: pa.Table) -> pa.Table:
        return _pack(self._stage(list(_unpack(table))))


def _pack(parcels: Iterable[Parcel]) -> pa.Table:
    import pyarrow as pa

    # Pickled by us: file names need not be text, and arrays of many shapes fit no column.
    pickled = [pickle.dumps(parcel, protocol=pickle.HIGHEST_PROTOCOL) for parcel in parcels]
    return pa.table({_COLUMN: pa.array(pickled, pa.large_binary())})


def _unpack(table: pa.Table) -> Iterator[Parcel]:
    for item in table[_COLUMN]:
        yield pickle.loads(item.as_buffer())
