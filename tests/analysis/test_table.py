from __future__ import annotations

import csv
import json
import sys

import pytest

from napari_attention3d.analysis.table import Column, Table
from napari_attention3d.errors import InputError, OutputError

TABLE = Table(
    (Column("label"), Column("name"), Column("volume", "mm3"), Column("volume", "mL")),
    ((1, "liver", 1500.25, 1.50025), (2, "=1+1", None, None)),
    ("scan.nii.gz reaches half of it",),
)


def test_columns_are_found_by_heading_or_name():
    assert TABLE.column("volume (mL)") == [1.50025, None]
    assert TABLE.column("volume") == [1500.25, None]
    assert list(TABLE.as_columns()) == ["label", "name", "volume (mm3)", "volume (mL)"]
    with pytest.raises(KeyError, match=r"'area'.*volume \(mm3\)"):
        TABLE.column("area")


def test_csv_reads_back(tmp_path):
    path = TABLE.write(tmp_path / "a.csv")
    with path.open(newline="", encoding="utf-8") as file:
        found = list(csv.DictReader(file))
    assert float(found[0]["volume (mm3)"]) == 1500.25
    assert found[1] == {"label": "2", "name": "=1+1", "volume (mm3)": "", "volume (mL)": ""}


def test_json_reads_back(tmp_path):
    found = json.loads(TABLE.write(tmp_path / "a.json").read_text())
    assert found["columns"][2] == {"name": "volume", "unit": "mm3"}
    assert found["rows"][0]["volume (mL)"] == 1.50025
    assert found["notes"] == list(TABLE.notes)


def test_xlsx_reads_back_with_numbers_as_numbers_and_text_as_text(tmp_path):
    openpyxl = pytest.importorskip("openpyxl")
    path = TABLE.write(tmp_path / "a.xlsx")
    book = openpyxl.load_workbook(path)
    rows = list(book["measures"].iter_rows(values_only=True))
    assert rows[0] == ("label", "name", "volume (mm3)", "volume (mL)")
    assert rows[1] == (1, "liver", 1500.25, 1.50025)
    assert rows[2] == (2, "=1+1", None, None)
    assert book["measures"].cell(3, 2).data_type == "s"
    assert book["notes"].cell(1, 1).value == TABLE.notes[0]


def test_xlsx_without_openpyxl_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "openpyxl", None)
    with pytest.raises(InputError, match=r"napari-attention3d\[xlsx\]"):
        TABLE.write(tmp_path / "a.xlsx")


def test_other_files_are_refused_and_failures_leave_the_old_one(tmp_path):
    with pytest.raises(InputError, match=r"a\.txt.*\.csv"):
        TABLE.write(tmp_path / "a.txt")
    with pytest.raises(OutputError, match="does not exist"):
        TABLE.write(tmp_path / "absent" / "a.csv")
    path = tmp_path / "a.json"
    path.write_text("old")
    broken = Table((Column("label"),), ((float("nan"),),))
    with pytest.raises(ValueError, match="not JSON compliant"):
        broken.write(path)
    assert path.read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
