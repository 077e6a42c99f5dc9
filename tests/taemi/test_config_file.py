"""Options from a TOML file, by what the command then does."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated

import pytest
import typer
from typer.testing import CliRunner

from taemi.commands.config_file import Config, write_options
from taemi.commands.train import train
from taemi_runtime.errors import UsageError

SEEN: dict[str, object] = {}
app = typer.Typer()


@app.command()
def probe(
    context: typer.Context,
    data: Annotated[Path, typer.Argument()],
    out: Annotated[Path, typer.Option()],
    config: Config = None,
    epochs: int = 50,
    learning_rate: float = 1e-4,
    modalities: str = "audio,vision,text",
    freeze: Annotated[list[str] | None, typer.Option()] = None,
    frozen: Annotated[bool, typer.Option("--frozen")] = False,
    tensorboard: bool = True,
    max_fps: float | None = None,
) -> None:
    SEEN.clear()
    SEEN.update(context.params)
    if config is not None:
        write_options(context, out)


def run(*arguments):
    return CliRunner().invoke(app, [str(argument) for argument in arguments], catch_exceptions=True)


@pytest.fixture
def written(tmp_path):
    def write(text):
        path = tmp_path / "options.toml"
        path.write_text(text)
        return path

    return write


def test_the_command_line_counts_before_the_file_and_the_file_before_the_defaults(written, tmp_path):
    path = written(
        'data = "corpus"\nepochs = 7\nlearning-rate = 2e-4\nmodalities = ["text", "audio"]\n'
        'freeze = ["text"]\nfrozen = true\ntensorboard = false\n'
    )
    done = run("--out", tmp_path / "o.toml", "--config", path, "--epochs", 9)
    assert done.exit_code == 0, done.output
    assert SEEN["epochs"] == 9
    assert SEEN["learning_rate"] == 2e-4
    assert SEEN["modalities"] == "text,audio"
    assert SEEN["freeze"] == ["text"]
    assert SEEN["frozen"] is True
    assert SEEN["tensorboard"] is False
    assert SEEN["max_fps"] is None
    assert SEEN["data"] == Path("corpus")


def test_what_is_written_repeats_the_call(written, tmp_path):
    path = written('epochs = 3\nfreeze = ["text", "audio"]\nmax_fps = 2.5\n')
    run("corpus", "--out", tmp_path / "o.toml", "--config", path)
    first = dict(SEEN)
    kept = tomllib.loads((tmp_path / "o.toml").read_text())
    assert "config" not in kept
    done = run("--config", tmp_path / "o.toml")
    assert done.exit_code == 0, done.output
    assert {**first, "config": None} == {**SEEN, "config": None}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("epoch = 3", "no option 'epoch'.*Choose from: data, epochs, freeze"),
        ("resume = true", "no option 'resume'"),
        ("epochs = ", "no TOML"),
        ("[train]\nepochs = 3", "no option 'train'"),
        ("[epochs]\nn = 3", "epochs is a table"),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(written, tmp_path, text, said):
    done = run("corpus", "--out", tmp_path / "out", "--config", written(text))
    assert isinstance(done.exception, UsageError)
    with pytest.raises(UsageError, match=said):
        raise done.exception


def test_a_value_of_another_type_is_the_options_error(written, tmp_path):
    done = run("corpus", "--out", tmp_path / "out", "--config", written('epochs = "many"'))
    assert done.exit_code == 2
    assert "epochs" in done.output


def test_a_missing_file_is_named(tmp_path):
    done = run("corpus", "--out", tmp_path / "out", "--config", tmp_path / "none.toml")
    assert isinstance(done.exception, UsageError)
    assert "none.toml" in str(done.exception)


def test_every_value_of_the_recipe_is_an_option_of_the_command():
    from dataclasses import fields
    from inspect import signature

    from taemi.recipe import Recipe

    options = signature(train).parameters
    for field in fields(Recipe):
        given = options[field.name].default
        if field.name in ("freeze", "modalities"):
            # As the variant says; nothing.
            assert given is None
        elif field.name != "workers":
            # Two processes read batches for the command; a script has none of its own.
            assert given == field.default, field.name
