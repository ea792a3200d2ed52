"""The report: run folders as one page that opens from disk. No torch, no network."""

from inputaware.report.render import write_report

__all__ = ["write_report"]
