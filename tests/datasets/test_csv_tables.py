"""Targets in CSV files, and what is said of those that cannot be read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deepsup.datasets.csv_tables import read_labels, read_values
from deepsup.errors import DatasetError
from tests.support.tiny_tables import draw, write_table

NAN = float("nan")


def close(found: torch.Tensor, wanted: list[list[float]]) -> None:
    torch.testing.assert_close(found, torch.tensor(wanted), equal_nan=True)


def test_numbers_and_the_split_wherever_its_column_is(tmp_path: Path) -> None:
    lines = ["image, age ,Split,height", "0.png,41,train,1.5", "", "1.png,,valid,-2e3", "./2.png, NaN ,test,NA"]
    table = read_values(write_table(tmp_path, "values", lines))
    assert table.names == ("age", "height")
    assert [path.name for path in table.paths] == ["0.png", "1.png", "2.png"]
    assert table.parts == ("train", "val", "test")
    close(table.targets, [[41, 1.5], [NAN, -2000], [NAN, NAN]])


def test_what_a_spreadsheet_writes(tmp_path: Path) -> None:
    draw(tmp_path / "a, b.png")
    file = tmp_path / "values.csv"
    file.write_bytes(b'\xef\xbb\xbfimage,age\r\n"a, b.png",3\r\n,\r\n')
    table = read_values(file)
    assert (table.names, table.parts, table.targets.tolist()) == (("age",), None, [[3.0]])


def test_a_column_a_label(tmp_path: Path) -> None:
    table = read_labels(write_table(tmp_path, "labels", ["image,cat,dog", "0.png,1,0", "1.png,0.0,", "2.png,nan,1.0"]))
    close(table.targets, [[1, 0], [0, NAN], [NAN, 1]])
    one = read_labels(write_table(tmp_path, "labels", ["image,cat", "0.png,1", "1.png,0"]))
    assert (one.names, one.targets.tolist()) == (("cat",), [[1.0], [0.0]])


@pytest.mark.parametrize("between", [";", " ; ", " "])
def test_names_of_labels(tmp_path: Path, between: str) -> None:
    lines = ["file,split,Labels", f"0.png,train,dog{between}cat", "1.png,val,", "2.png,val,NaN"]
    table = read_labels(write_table(tmp_path, "labels", lines))
    assert (table.names, table.parts) == (("cat", "dog"), ("train", "val", "val"))
    close(table.targets, [[1, 1], [0, 0], [NAN, NAN]])


def test_with_semicolons_names_may_have_spaces(tmp_path: Path) -> None:
    lines = ["file,labels", "0.png,black cat;dog", "1.png,black cat"]
    assert read_labels(write_table(tmp_path, "labels", lines)).names == ("black cat", "dog")


BAD_TABLES = {
    "no header": (["0.png,3", "1.png,4"], "has no header: its first line begins with '0.png'"),
    "semicolons": (["image;age", "0.png;1,5"], r"has semicolons between its columns: 'image;age'\. Write commas"),
    "tabs": (["image\tage", "0.png\t1"], "has tabs between its columns"),
    "no targets": (["image,split", "0.png,train"], "has no column of targets"),
    "no rows": (["image,age"], "has no row below its header"),
    "blank": (["", " , "], "is empty"),
    "no name": (["image,age,", "0.png,1,2"], "column 3 has no name"),
    "twice a name": (["image,age,Age", "0.png,1,2"], "has two columns 'Age'"),
    "a decimal comma": (["image,age", "0.png,1,5"], "line 2 has 3 cells, and the header 2 columns"),
    "a quoted one": (
        ["image,age", '0.png,"1,5"'],
        "line 2: 'age' of 0.png is '1,5', which is no number. Write decimals",
    ),
    "a text": (["image,age", "0.png,1", "1.png,old"], "line 3: 'age' of 1.png is 'old', which is no number. Leave"),
    "underlined": (["image,age", "0.png,1_0"], "which is no number"),
    "infinite": (["image,age", "0.png,-inf"], "which is no finite number"),
    "too large": (["image,age", "0.png,1e39"], "which is no finite number of 32 bits"),
    "absent": (["image,age", "0.png,1", "9.png,1"], "line 3: there is no image .*9.png"),
    "a backslash": (["image,age", "a\\0.png,1"], "Write / between folders"),
    "no path": (["image,age", ",1"], "line 2: '' is no path in"),
    "outside": (["image,age", "../0.png,1"], "line 2: '../0.png' is no path in"),
    "absolute": (["image,age", "/0.png,1"], "line 2: '/0.png' is no path in"),
    "twice": (["image,age", "0.png,1", "1.png,1", "./0.png,1"], "lines 2 and 4 are both about ./0.png"),
    "a strange split": (["image,age,split", "0.png,1,train", "1.png,1,dev"], "line 3: split is 'dev'"),
    "an open quote": (["image,age", '0.png,"1'], "line 2 is no CSV"),
}


@pytest.mark.parametrize("case", BAD_TABLES)
def test_what_cannot_be_read_is_named_with_its_line(tmp_path: Path, case: str) -> None:
    lines, said = BAD_TABLES[case]
    with pytest.raises(DatasetError, match=said) as caught:
        read_values(write_table(tmp_path, "values", lines))
    assert str(tmp_path / "values.csv") in str(caught.value)


BAD_LABELS = {
    "another number": (["image,cat", "0.png,2"], "line 2: 'cat' of 0.png is '2', and a label is there"),
    "a word": (["image,cat", "0.png,yes"], "is 'yes', and a label is there"),
    "half": (["image,cat", "0.png,0.5"], "Numbers are for data.name=values"),
    "names under another name": (["image,animals", "0.png,cat;dog"], "a column of names is called 'labels'"),
    "commas between names": (
        ["image,labels", '0.png,"cat,dog"'],
        "line 2: the labels of 0.png are 'cat,dog'. Write semi",
    ),
    "no names": (["image,labels", "0.png,", "1.png,"], "names no label in any row"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_what_is_no_label_is_named_with_its_line(tmp_path: Path, case: str) -> None:
    lines, said = BAD_LABELS[case]
    with pytest.raises(DatasetError, match=said):
        read_labels(write_table(tmp_path, "labels", lines))


def test_all_bad_rows_are_counted(tmp_path: Path) -> None:
    lines = ["image,age", *(f"none{n}.png,1" for n in range(5)), "0.png,1"]
    with pytest.raises(DatasetError, match=r"5 of 6 rows cannot be used:\n- .*line 2: .*\n- .*\n- .*\n- and 2 more"):
        read_values(write_table(tmp_path, "values", lines))


def test_a_file_that_is_not_there_or_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"values.csv is not there. It has a header and a row an image"):
        read_values(tmp_path / "values.csv")
    (tmp_path / "values.csv").write_bytes("image,größe\n".encode("latin-1"))
    with pytest.raises(DatasetError, match="is not UTF-8"):
        read_values(tmp_path / "values.csv")
