"""Journals on disk -> a page, pictures and tables. Nothing here trains, imports torch or changes a run.

>>> from deepsup import reports
>>> reports.write_html("runs/demo", "report.html")      # doctest: +SKIP
"""

from __future__ import annotations

from deepsup.reports.page import render, write_html
from deepsup.reports.pictures import gradient_figure, picture
from deepsup.reports.summary import Evidence, evidence, judged
from deepsup.reports.text_tables import (
    comparison_table,
    depth_table,
    inference_line,
    look_table,
    remarks,
    run_table,
    verdict_lines,
    verdict_table,
)
from deepsup.training.records import Run
from deepsup.training.run_folders import run, runs

__all__ = [
    "Evidence",
    "Run",
    "comparison_table",
    "depth_table",
    "evidence",
    "gradient_figure",
    "inference_line",
    "judged",
    "look_table",
    "picture",
    "remarks",
    "render",
    "run",
    "run_table",
    "runs",
    "verdict_lines",
    "verdict_table",
    "write_html",
]
