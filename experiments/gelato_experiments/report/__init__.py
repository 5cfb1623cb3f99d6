"""The report of a folder of results: one HTML file that needs no other, claims as JSON, and lines for a terminal."""

from gelato_experiments.report.page import write
from gelato_experiments.report.results import Report, Result, collect
from gelato_experiments.report.summary import summary

__all__ = ["Report", "Result", "collect", "summary", "write"]
