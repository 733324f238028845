"""The command line of the dictionary's training."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import train_dictionary


def test_help_is_printed_and_no_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        train_dictionary.main(["--help"])

    assert ended.value.code == 0
    assert "usage: python -m benchmarks.train_dictionary" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_a_dictionary_that_exists_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "1.zdict"
    file.write_bytes(b"in use")

    with pytest.raises(SystemExit):
        train_dictionary.main([str(file)])

    assert file.read_bytes() == b"in use"
    assert "a dictionary is never changed" in capsys.readouterr().err
