"""The command from outside: its list of commands, and that neither it nor the version waits for torch."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import typer

import deepsup as ds
from deepsup.cli import app, commands
from tests.support.command_line import call


def test_the_list_says_of_each_command_what_its_own_help_begins_with() -> None:
    whole = typer.main.get_group(commands.commands)
    assert list(whole.commands) == list(app.SUMMARIES)
    for name, command in whole.commands.items():
        assert (command.help or "").replace("\n", " ").startswith(app.SUMMARIES[name]), name


@pytest.mark.parametrize("word", ["--version", "--help", "tran", "import"])
def test_torch_is_only_imported_by_a_command(word: str) -> None:
    ask = "import deepsup" if word == "import" else f"sys.argv = ['deepsup', '{word}']; main()"
    code = f"""
import atexit, sys
atexit.register(lambda: print(sorted({{"torch", "numpy", "scipy", "matplotlib"}} & set(sys.modules))))
from deepsup.__main__ import main
{ask}
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines()[-1] == "[]", done
    assert done.returncode == (2 if word == "tran" else 0), done
    if word == "tran":
        assert "No such command 'tran'. Did you mean 'train'?" in done.stderr


def test_the_version_is_the_package_s() -> None:
    assert call("--version") == f"deepsup {ds.__version__}\n"


def test_ctrl_c_during_the_first_imports_ends_without_a_traceback() -> None:
    code = """
import os, signal, sys
class Slow:
    def find_spec(self, name, *_):
        if name == "deepsup.cli.app":
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)
sys.meta_path.insert(0, Slow())
from deepsup.__main__ import main
main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (-signal.SIGINT, "")
